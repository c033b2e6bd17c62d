"""What the late-interaction benchmarks share: ragged documents as a retriever returns them, and the peers that score them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.packed import Packed

DIM, QUERY_TOKENS, CENTROIDS = 128, 32, 16384
NUMKONG_ERROR = 1.0  # approximate by design


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@dataclass
class Case:
    """n documents, lognormal lengths of mean 116 and cap 300; tokens around centroids that are used by Zipf's law; the query near
    tokens."""

    n: int
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        lengths = np.clip(np.round(rng.lognormal(np.log(120) - 0.5 * 0.45**2, 0.45, self.n)), 8, 300).astype(np.int64)
        self.offsets = np.concatenate([[0], lengths.cumsum()])
        self.centroids = unit(rng.standard_normal((CENTROIDS, DIM)))
        weights = np.arange(1, CENTROIDS + 1) ** -0.8
        self.ids = rng.choice(CENTROIDS, self.offsets[-1], p=weights / weights.sum())
        residuals = rng.standard_normal((len(self.ids), DIM), dtype=np.float32) * np.float32(0.6 / np.sqrt(DIM))
        self.values = unit(self.centroids[self.ids] + residuals)
        near = self.values[rng.integers(0, len(self.ids), QUERY_TOKENS)]
        self.query = unit(unit(rng.standard_normal((QUERY_TOKENS, DIM))) + near)
        self.packed = Packed(self.values, self.offsets)
        self.lists = [np.ascontiguousarray(row) for row in self.packed]
        self.flops = 2.0 * len(self.ids) * DIM * QUERY_TOKENS

    @property
    def name(self) -> str:
        return f"rerank-{self.n}x116-q{QUERY_TOKENS}-d{DIM}"

    @cached_property
    def exact(self) -> np.ndarray:
        return self.reference(self.values)

    def reference(self, tokens) -> np.ndarray:
        """float64 [n], in pieces."""
        q, out = self.query.astype(np.float64), np.empty(self.n)
        for i in range(self.n):
            out[i] = (q @ tokens[self.offsets[i] : self.offsets[i + 1]].astype(np.float64).T).max(1).sum()
        return out

    def compressed(self, nbits: int) -> ResidualTokens:
        """With the centroids that the tokens were made from, and quantiles of the residuals as buckets."""
        residuals = self.values[:20_000] - self.centroids[self.ids[:20_000]]
        steps = np.arange(1 << nbits) / (1 << nbits)
        codec = ResidualCodec(self.centroids, np.quantile(residuals, steps[1:]), np.quantile(residuals, steps + 0.5 / (1 << nbits)))
        return ResidualTokens.encode(self.packed, codec)


def overlap(scores, exact, k: int = 10) -> int:
    """How many of the k best are the same."""
    return len(set(np.argsort(-np.asarray(scores), kind="stable")[:k]) & set(np.argsort(-exact, kind="stable")[:k]))


def close(name: str, scores, exact, tolerance: float) -> None:
    error = float(np.abs(np.asarray(scores, np.float64) - exact).max())
    harness.note(f"{name}: largest error {error:.2g}, {overlap(scores, exact)} of the top 10")
    harness.verify(name, error <= tolerance)


def maxsim_peers(case: Case) -> dict[str, tuple[Callable[[], Any], float]]:
    """name -> (a call that scores the case, how far it may be off). Documents are in the form that the peer takes, made beforehand."""
    found: dict[str, tuple[Callable[[], Any], float]] = {}
    q = case.query
    found["numpy-loop"] = (lambda: np.array([(d @ q.T).max(0).sum() for d in case.lists]), 1e-4)
    found["numpy-reduceat"] = (lambda: np.maximum.reduceat(case.values @ q.T, case.offsets[:-1]).sum(1), 1e-4)
    if (peer := harness.peer("maxsim_cpu")) is not None:
        found["maxsim-cpu"] = (lambda: peer.maxsim_scores_variable(q, case.lists), 1e-4)
    if (kong := harness.peer("numkong")) is not None:
        found["numkong"] = (numkong(kong, case), NUMKONG_ERROR)
    if (torch := harness.peer("torch")) is not None:
        torch.set_num_threads(1)
        found.update(_torch_peers(torch, case))
    if (rank := harness.peer("pylate.rank")) is not None:
        documents = [[torch.from_numpy(row) for row in case.lists]]
        names = [list(range(case.n))]

        def pylate():
            done = rank.rerank(documents_ids=names, queries_embeddings=[torch.from_numpy(q)], documents_embeddings=documents)[0]
            out = np.empty(case.n)
            out[[row["id"] for row in done]] = [row["score"] for row in done]
            return out

        found["pylate-rank"] = (pylate, 1e-3)
    return found


def numkong(kong: Any, case: Case) -> Callable[[], Any]:
    packed = [kong.maxsim_pack(row, dtype="f32") for row in case.lists]

    def run():
        asked = kong.maxsim_pack(case.query, dtype="f32")
        return QUERY_TOKENS - np.array([kong.maxsim_packed(asked, row) for row in packed])

    return run


@contextmanager
def only_avx2(kong: Any) -> Iterator[None]:
    """numkong without the instruction sets beyond AVX2."""
    wider = [name for name, there in kong.get_capabilities().items() if there and name not in ("serial", "haswell")]
    for name in wider:
        kong.disable_capability(name)
    try:
        yield
    finally:
        for name in wider:
            kong.enable_capability(name)


def _torch_peers(torch, case: Case) -> dict[str, tuple[Callable[[], Any], float]]:
    q, d = torch.from_numpy(case.query), torch.from_numpy(case.values)
    lengths = torch.from_numpy(np.diff(case.offsets))
    owner = torch.repeat_interleave(torch.arange(case.n), lengths)
    longest = int(lengths.max())
    padded = torch.zeros(case.n, longest, DIM)
    mask = torch.arange(longest) < lengths[:, None]
    padded[mask] = d

    def einsum():
        products = torch.einsum("qd,nld->nql", q, padded)
        return products.masked_fill(~mask[:, None], -torch.inf).amax(2).sum(1)

    def segments():
        return torch.segment_reduce(d @ q.T, "max", lengths=lengths).sum(1)

    index = owner[:, None].expand(-1, QUERY_TOKENS)

    def scatter():
        out = torch.full((case.n, QUERY_TOKENS), -torch.inf)
        return out.scatter_reduce(0, index, d @ q.T, "amax").sum(1)

    found = {"torch-einsum-padded": (einsum, 1e-4), "torch-segment-reduce": (segments, 1e-4), "torch-scatter-reduce": (scatter, 1e-4)}
    if (extension := colbert_extension("segmented_maxsim_cpp", "modeling/segmented_maxsim.cpp")) is not None:
        # Its maximum starts at 0, not at -inf: the same for these documents, where every query token has a similarity above 0.
        found["colbert-segmented"] = (lambda: extension.segmented_maxsim_cpp(d @ q.T, lengths), 1e-4)
    return found


def colbert_extension(name: str, source: str) -> Any:
    """One of colbert-ai's C++ files, compiled by torch as it does itself at its first use; None where it is not installed."""
    spec = importlib.util.find_spec("colbert")
    if spec is None or not spec.submodule_search_locations:
        harness.note("skipped: colbert-ai is not installed")
        return None
    from torch.utils.cpp_extension import load

    folder = Path(__file__).resolve().parents[1] / "build" / "bench" / name
    folder.mkdir(parents=True, exist_ok=True)
    return load(name=name, sources=[str(Path(spec.submodule_search_locations[0]) / source)], build_directory=str(folder))


def colbert_residual(case: Case, tokens: ResidualTokens) -> Callable[[], Any] | None:
    """colbert-ai's way on a CPU: decompress all candidates, normalise them, multiply, take the maxima."""
    if harness.peer("torch") is None:
        return None
    import torch

    decompress = colbert_extension("decompress_residuals_cpp", "search/decompress_residuals.cpp")
    segmented = colbert_extension("segmented_maxsim_cpp", "modeling/segmented_maxsim.cpp")
    if decompress is None or segmented is None:
        return None
    torch.set_num_threads(1)
    nbits, codec = tokens.codec.nbits, tokens.codec
    flip = [
        sum(((x >> g & (1 << nbits) - 1) >> b & 1) << (nbits - 1 - b) << g for g in range(0, 8, nbits) for b in range(nbits))
        for x in range(256)
    ]
    combinations = torch.tensor(list(product(range(1 << nbits), repeat=8 // nbits)), dtype=torch.uint8)
    given = (
        torch.arange(case.n, dtype=torch.int32),
        torch.from_numpy(tokens.lengths),
        torch.from_numpy(tokens.offsets[:-1].copy()),
        torch.from_numpy(codec.bucket_weights),
        torch.tensor(flip, dtype=torch.uint8),
        combinations,
        torch.from_numpy(tokens.residuals),
        torch.from_numpy(tokens.centroid_ids.astype(np.int32)),
        torch.from_numpy(codec.centroids),
        DIM,
        nbits,
    )
    q, lengths = torch.from_numpy(case.query), torch.from_numpy(tokens.lengths)

    def run():
        d = torch.nn.functional.normalize(decompress.decompress_residuals_cpp(*given), p=2, dim=-1)
        return segmented.segmented_maxsim_cpp(d @ q.T, lengths)

    return run
