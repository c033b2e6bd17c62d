"""colbert-ai's C++, compiled by torch as it does itself at its first use: MaxSim over segments, and over residual codes as on a CPU:
decompress all candidates, normalise them, multiply, take the maxima.

The maximum of its segments starts at 0, not at -inf: the same where every query token has a similarity above 0.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.cpp_extension import load

from benchmarks.peers.with_torch import tensors
from rerank_engine.codec import ResidualTokens
from rerank_engine.packed import Packed

BUILT = Path(__file__).resolve().parents[2] / "build" / "bench"


def maxsim(query: NDArray[np.float32], documents: Packed) -> Callable[[], Any]:
    segmented = extension("segmented_maxsim_cpp", "modeling/segmented_maxsim.cpp").segmented_maxsim_cpp
    q, d, lengths = tensors(query, documents)
    return lambda: segmented(d @ q.T, lengths)


def residual(query: NDArray[np.float32], tokens: ResidualTokens) -> Callable[[], Any]:
    decompress = extension("decompress_residuals_cpp", "search/decompress_residuals.cpp").decompress_residuals_cpp
    segmented = extension("segmented_maxsim_cpp", "modeling/segmented_maxsim.cpp").segmented_maxsim_cpp
    torch.set_num_threads(1)
    nbits, codec = tokens.codec.nbits, tokens.codec
    flip = [
        sum(((x >> g & (1 << nbits) - 1) >> b & 1) << (nbits - 1 - b) << g for g in range(0, 8, nbits) for b in range(nbits))
        for x in range(256)
    ]
    combinations = torch.tensor(list(product(range(1 << nbits), repeat=8 // nbits)), dtype=torch.uint8)
    given = (
        torch.arange(len(tokens.lengths), dtype=torch.int32),
        torch.from_numpy(tokens.lengths),
        torch.from_numpy(tokens.offsets[:-1].copy()),
        torch.from_numpy(codec.bucket_weights),
        torch.tensor(flip, dtype=torch.uint8),
        combinations,
        torch.from_numpy(tokens.residuals),
        torch.from_numpy(tokens.centroid_ids.astype(np.int32)),
        torch.from_numpy(codec.centroids),
        codec.dim,
        nbits,
    )
    q, lengths = torch.from_numpy(query), torch.from_numpy(tokens.lengths)

    def run() -> Any:
        d = torch.nn.functional.normalize(decompress(*given), p=2, dim=-1)
        return segmented(d @ q.T, lengths)

    return run


def extension(name: str, source: str) -> Any:
    """One of its files, compiled once and kept. Raises ModuleNotFoundError where colbert-ai is not installed; it is not imported."""
    spec = importlib.util.find_spec("colbert")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("colbert-ai is not installed", name="colbert")
    folder = BUILT / f"{name}-{importlib.metadata.version('colbert-ai')}-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "held").open("w") as held:
        fcntl.flock(
            held, fcntl.LOCK_EX
        )  # one at a time; so a lock of torch's is of a process that was killed, and would be waited for for ever
        (folder / "lock").unlink(missing_ok=True)
        return load(name=name, sources=[str(Path(spec.submodule_search_locations[0]) / source)], build_directory=str(folder))
