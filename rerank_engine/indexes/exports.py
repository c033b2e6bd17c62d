"""Token indexes for other engines: a folder that colbert-ai opens and searches, written without torch."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import ResidualTokens
from ..errors import InputError
from ..ops import checks
from .files import sync_folder
from .torch_file import write_torch

DOCUMENTS_PER_CHUNK = 25_000  # as colbert-ai has it at most


def write_colbert(path: str | Path, tokens: ResidualTokens, *, config: Mapping[str, Any] | None = None) -> None:
    """Writes a folder as colbert-ai's indexer does, codes and residuals byte for byte those of `tokens`; its passage i is our document i.

    config: more fields of colbert-ai's ColBERTConfig, such as checkpoint and doc_maxlen, as JSON values; dim and nbits are set here.
    Centroids are float16, as colbert-ai writes them, where that loses nothing, else float32. The folder appears when it is complete.
    Raises InputError (something is there already, a place that cannot be written, a config that is not JSON).
    """
    folder = Path(path)
    checks.instance("write_colbert: tokens", tokens, ResidualTokens)
    settings = {**(config or {}), "dim": tokens.codec.dim, "nbits": tokens.codec.nbits}
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    try:
        json.dumps(settings, allow_nan=False)
        if folder.exists():
            raise FileExistsError("something that is there already")
        temporary.mkdir()
    except (OSError, ValueError, TypeError, RecursionError) as error:  # ValueError: NUL in the path, or no JSON
        raise InputError(f"write_colbert: {path}", got=str(error), expected="a new folder, and a config of JSON values") from error
    try:
        _write(temporary, tokens, settings)
        for written in (*temporary.iterdir(), temporary):  # or after a crash the folder could be there and its files empty
            sync_folder(written)
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # it is there only if something went wrong


def _write(folder: Path, tokens: ResidualTokens, config: dict[str, Any]) -> None:
    codec, count, lengths = tokens.codec, len(tokens), tokens.lengths
    half = codec.centroids.astype(np.float16) if np.abs(codec.centroids).max() < 65504 else codec.centroids
    write_torch(folder / "centroids.pt", half if np.array_equal(half.astype(np.float32), codec.centroids) else codec.centroids)
    write_torch(folder / "buckets.pt", (codec.bucket_cutoffs, codec.bucket_weights))
    write_torch(folder / "avg_residual.pt", np.abs(codec.bucket_weights).mean(keepdims=True))  # colbert-ai reads it and uses it nowhere
    write_torch(folder / "ivf.pid.pt", _inverted(tokens))
    starts = range(0, count, DOCUMENTS_PER_CHUNK)
    for chunk, start in enumerate(starts):
        stop = min(start + DOCUMENTS_PER_CHUNK, count)
        rows = slice(int(tokens.offsets[start]), int(tokens.offsets[stop]))
        write_torch(folder / f"{chunk}.codes.pt", tokens.centroid_ids[rows].astype(np.int32))
        write_torch(folder / f"{chunk}.residuals.pt", tokens.residuals[rows])
        _json(folder / f"doclens.{chunk}.json", lengths[start:stop].tolist())
        sizes = {"num_embeddings": rows.stop - rows.start, "embedding_offset": rows.start}
        _json(folder / f"{chunk}.metadata.json", {"passage_offset": start, "num_passages": stop - start, **sizes})
    total = int(tokens.offsets[-1])
    mean = total / count if count else 0.0
    shared = {"config": config, "num_chunks": len(starts), "num_partitions": len(codec.centroids)}
    _json(folder / "plan.json", {**shared, "num_embeddings_est": float(total), "avg_doclen_est": mean})
    _json(folder / "metadata.json", {**shared, "num_embeddings": total, "avg_doclen": mean})


def _inverted(tokens: ResidualTokens) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(documents int32 of each centroid, one centroid after the other, each document once; how many each has int64 [K]).

    Ends with zeros, so that a window of the longest list fits at the start of every list, as colbert-ai reads them.
    """
    documents = np.repeat(np.arange(len(tokens), dtype=np.int64), tokens.lengths)
    pairs = np.unique(tokens.centroid_ids.astype(np.int64) * max(len(tokens), 1) + documents)
    centroids, found = np.divmod(pairs, max(len(tokens), 1))
    sizes = np.bincount(centroids, minlength=len(tokens.codec.centroids)).astype(np.int64)
    longest, last = int(sizes.max()), len(found) - int(sizes[-1])
    padding = np.zeros(longest if last + longest > len(found) else 0, np.int32)
    return np.concatenate([found.astype(np.int32), padding]), sizes


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="ascii")
