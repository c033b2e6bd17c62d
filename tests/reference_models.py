"""Small random checkpoints of the families that cross-encoders come in, written by transformers, which also says what they must answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch runtime needs torch (CPU build: pip install torch==2.13.0+cpu)")
transformers = pytest.importorskip("transformers", reason="the reference implementation of these families is transformers")

BASE = {"vocab_size": 90, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 1}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"intermediate_size": 96, "max_position_embeddings": 140}),
    "bert-tanh-gelu": ("Bert", {"intermediate_size": 96, "max_position_embeddings": 140, "hidden_act": "gelu_new", "layer_norm_eps": 1e-6}),
    "roberta": ("Roberta", {"intermediate_size": 96, "max_position_embeddings": 142, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"intermediate_size": 96, "max_position_embeddings": 142, "type_vocab_size": 1}),
    "modernbert": ("ModernBert", {"intermediate_size": 80, "max_position_embeddings": 140, "local_attention": 12}),
    "modernbert-mean": (
        "ModernBert",
        {"intermediate_size": 80, "max_position_embeddings": 140, "local_attention": 12, "classifier_pooling": "mean", "mlp_bias": True}
        | {"attention_bias": True, "norm_bias": True, "classifier_bias": True, "global_attn_every_n_layers": 2},
    ),
    "qwen3": ("Qwen3", {"intermediate_size": 96, "max_position_embeddings": 140, "num_key_value_heads": 2, "head_dim": 32}),
    "qwen2": ("Qwen2", {"intermediate_size": 96, "max_position_embeddings": 140, "num_key_value_heads": 2}),
}
DECODERS = ("qwen3", "qwen2")


def make(folder: Path, family: str, task: str = "ForSequenceClassification", labels: int = 1, **more: Any) -> Any:
    """Writes a checkpoint with random numbers everywhere, also in biases and norms; returns the model of transformers."""
    name, config = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    settings = getattr(transformers, f"{name}Config")(**{**BASE, **config, **more}, num_labels=labels)
    settings._attn_implementation = "eager"
    model = getattr(transformers, name + task)(settings).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(
                torch.randn_like(value) * (0.3 if value.ndim == 1 else value.shape[-1] ** -0.5)
                + ("norm" in key.lower() and "weight" in key)
            )
    model.save_pretrained(folder)
    return model


def sequences(lengths: list[int], seed: int = 0, *, types: int = 2) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids that are not padding, and segment numbers: the last half of each is of segment 1."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(2, BASE["vocab_size"], n) for n in lengths]
    return ids, [(np.arange(n) >= n // 2).astype(np.int64) if types > 1 else np.zeros(n, np.int64) for n in lengths]


def answers(model: Any, ids: list[np.ndarray], types: list[np.ndarray]) -> np.ndarray:
    """float32 [n, labels], each sequence alone."""
    found = []
    with torch.no_grad():
        for row, segments in zip(ids, types):
            more = {"token_type_ids": torch.from_numpy(segments)[None]} if model.config.model_type == "bert" else {}
            found.append(model(torch.from_numpy(row)[None], **more).logits[0].numpy())
    return np.stack(found)
