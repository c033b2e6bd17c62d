"""Sparse encoders for tests: checkpoints with random numbers in transformers' layout, and one whose weights a table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import VOCABULARY, tokenizer

from rerank_engine.packed import Packed
from rerank_engine.runtimes.encoder import Architecture
from rerank_engine.runtimes.tokenize import Tokenizer
from rerank_engine.stages.splade import SparseEncoder

WIDTH = len(VOCABULARY)
LONGEST = 24  # tokens
BASE: dict[str, Any] = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
PLACES = {"max_position_embeddings": 306, "pad_token_id": 1}
CHECKPOINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "bert-untied": ("Bert", {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
    "roberta": ("Roberta", {"type_vocab_size": 1, "hidden_act": "relu"}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1}),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "activation": "relu"}),
    "modernbert": ("ModernBert", {"local_attention": 12}),
    "modernbert-biased": ("ModernBert", {"decoder_bias": True, "classifier_bias": True, "norm_bias": True, "tie_word_embeddings": False}),
}


def write_masked(folder: Path, kind: str, **more: Any) -> Any:
    """A checkpoint with random numbers everywhere; returns the model of transformers."""
    torch = pytest.importorskip("torch", reason="checkpoints are made by transformers, which needs torch")
    transformers = pytest.importorskip("transformers", reason="the reference implementation of masked-LM heads is transformers")
    name, own = CHECKPOINTS[kind]
    base = {"vocab_size": 90} if name == "DistilBert" else BASE
    torch.manual_seed(sum(map(ord, kind)))
    settings = getattr(transformers, f"{name}Config")(**{**base, **PLACES, **own, **more})
    settings._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForMaskedLM")(settings).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            norm = "norm" in key.lower() and "weight" in key
            value.copy_(torch.randn_like(value) * (0.3 if value.ndim == 1 else value.shape[-1] ** -0.5) + norm)
    model.save_pretrained(folder)
    return model


def logits_of(model: Any, ids: np.ndarray) -> np.ndarray:
    """float32 [tokens, vocabulary] of one sequence alone."""
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(ids)[None]).logits[0].numpy())


class Table:
    """A runtime: what a token gives to each word, multiples of 1/8 of which most are 0; a text's weights are the largest of its tokens'."""

    name, device, outputs, batch_sensitive = "table", "cpu", ("weights",), False
    architecture = Architecture("table", WIDTH, 1, 0, 1, 1, 1, 1, LONGEST, head="vocabulary", pooling="max", saturations=1)

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.table = (rng.integers(1, 24, (WIDTH, WIDTH)) * (rng.random((WIDTH, WIDTH)) < 0.08) / 8).astype(np.float32)
        self.table[VOCABULARY["nan"]] = np.nan
        self.fingerprint = f"{seed:064x}/float32"
        self.calls = 0

    def run(self, ids: Packed, types: Packed, output: str, attended: Any = None) -> np.ndarray:
        self.calls += 1
        return np.stack([self.table[row].max(0) for row in ids])


def sparse_encoder(folder: Path, seed: int = 0, **options: Any) -> SparseEncoder:
    """An encoder of the words "w0" ... "w59" (see models.py) by a Table."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    return SparseEncoder(Table(seed), Tokenizer(folder / "tokenizer.json", LONGEST), name=f"table-{seed}", **options)
