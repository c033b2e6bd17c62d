"""onnxruntime by itself: one pair a call, and all pairs in one padded batch as FlashRank's Ranker runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.cross import MOST, Pairs, Side
from benchmarks.cross_models import Models


def sides(models: Models) -> dict[str, Side]:
    """int8 scores of a padded batch differ from those of single pairs: they share one scale of activations."""
    found = {}
    for precision, apart in (("float32", 1e-3), ("int8", 3.0)):
        session, tokenizer = open_session(models.graph(precision)), read_tokenizer(models.tokenizer)
        for name, batch, error in (("onnxruntime-1by1", 1, 0.0), ("flashrank-style", None, apart)):
            found[f"{name}-{precision}"] = Side(lambda p, t=tokenizer, s=session, b=batch: score(t, s, p, b), precision, error)
    return found


def open_session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read_tokenizer(path: Path) -> Any:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST)
    return tokenizer


def score(tokenizer: Any, session: Any, pairs: Pairs, batch: int | None) -> NDArray[np.float32]:
    encodings = tokenizer.encode_batch(pairs)
    size = batch or len(pairs)
    parts = [encodings[at : at + size] for at in range(0, len(encodings), size)]
    return np.concatenate([session.run(None, padded(part))[0].reshape(-1) for part in parts])


def padded(encodings: list[Any]) -> dict[str, NDArray[np.int64]]:
    longest = max(len(encoding.ids) for encoding in encodings)
    out = {name: np.zeros((len(encodings), longest), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, encoding in enumerate(encodings):
        n = len(encoding.ids)
        out["input_ids"][row, :n], out["attention_mask"][row, :n], out["token_type_ids"][row, :n] = encoding.ids, 1, encoding.type_ids
    return out
