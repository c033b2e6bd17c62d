"""onnxruntime by itself: one pair a call, which is what others' scores are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.cross import MOST, Pairs, Score
from benchmarks.cross_models import Models


def float32(models: Models, batch: int | None = 1) -> Score:
    """batch: pairs a call; None: all of them."""
    return _score(models, "float32", batch)


def int8(models: Models, batch: int | None = 1) -> Score:
    return _score(models, "int8", batch)


def _score(models: Models, precision: str, batch: int | None) -> Score:
    session, tokenizer = open_session(models.graph(precision)), read_tokenizer(models.tokenizer)

    def score(pairs: Pairs) -> NDArray[np.float32]:
        encodings = tokenizer.encode_batch(pairs)
        size = batch or len(pairs)
        parts = [encodings[at : at + size] for at in range(0, len(encodings), size)]
        return np.concatenate([session.run(None, padded(part))[0].reshape(-1) for part in parts])

    return score


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


def padded(encodings: list[Any]) -> dict[str, NDArray[np.int64]]:
    longest = max(len(encoding.ids) for encoding in encodings)
    out = {name: np.zeros((len(encodings), longest), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, encoding in enumerate(encodings):
        n = len(encoding.ids)
        out["input_ids"][row, :n], out["attention_mask"][row, :n], out["token_type_ids"][row, :n] = encoding.ids, 1, encoding.type_ids
    return out
