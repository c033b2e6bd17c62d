"""Small random T5 checkpoints with a tokenizer in T5's manner, written by transformers, which also says what they must answer."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

torch = pytest.importorskip("torch", reason="the torch runtime needs torch (CPU build: pip install torch==2.13.0+cpu)")
transformers = pytest.importorskip("transformers", reason="the reference implementation of these families is transformers")

ANSWERS = ("▁true", "▁false", "▁yes", "▁no")
WORDS = [f"▁w{i}" for i in range(60)]
PIECES = [*"▁abcdefghijklmnopqrstuvwxyzQDR:.,0123456789", "▁Query", "▁Document", "▁Relevant", "▁Document0", "▁Document1"]
EXTRA = [f"<extra_id_{i}>" for i in range(12)]
VOCABULARY = ["<pad>", "</s>", "<unk>", *ANSWERS, *WORDS, *dict.fromkeys(PIECES)]
SIZE = len(VOCABULARY) + len(EXTRA) + 4  # more embeddings than tokens, as T5 has them
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {}),  # relu, tied, a scaled output
    "t5-v1.1": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", {"feed_forward_proj": "gated-gelu"}),
    "mt5-deep": ("MT5", {"num_decoder_layers": 1, "relative_attention_num_buckets": 16, "relative_attention_max_distance": 20}),
    "umt5": ("UMT5", {}),
}
UNTIED = ("t5-v1.1", "mt5", "mt5-deep")


SCORES = [(piece, 0.0 if piece.startswith("<") else -10.0 / len(piece)) for piece in VOCABULARY]  # long pieces are likelier


def tokenizer() -> tokenizers.Tokenizer:
    """Unigram pieces, a space before each word, </s> at the end."""
    made = tokenizers.Tokenizer(models.Unigram(SCORES, unk_id=2, byte_fallback=False))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens(["<pad>", "</s>", "<unk>", *EXTRA])
    return made


def write_t5(folder: Path, family: str = "t5", **more: Any) -> Any:
    """Writes a checkpoint with random numbers everywhere, also in norms, and a tokenizer; returns the model of transformers."""
    name, config = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    sizes = {"vocab_size": SIZE, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 3, "num_heads": 4, "decoder_start_token_id": 0}
    model = getattr(transformers, f"{name}ForConditionalGeneration")(
        getattr(transformers, f"{name}Config")(**{**sizes, **config, **more})
    ).eval()
    if family in UNTIED:  # transformers 5 ties what it makes, and keeps apart what it reads apart
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.shared.weight))
    with torch.no_grad():
        for key, value in model.named_parameters():
            scale = 0.3 if value.ndim == 1 else 1.0 if "bias" in key or "shared" in key else value.shape[-1] ** -0.5
            value.copy_(torch.randn_like(value) * scale + (value.ndim == 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    if family in UNTIED:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, "lm_head.weight": model.lm_head.weight.detach()}, folder / "model.safetensors", {"format": "pt"})
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


def config_of(folder: Path, **changes: Any) -> dict[str, Any]:
    """What config.json says, with changes, which are written too; None takes a key away."""
    told = {**json.loads((folder / "config.json").read_text()), **changes}
    told = {key: value for key, value in told.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(told))
    return told


def first_logits(model: Any, rows: list[np.ndarray]) -> np.ndarray:
    """float32 [n, vocabulary]: by transformers' forward, each sequence alone."""
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        found = [model(input_ids=torch.from_numpy(row)[None], decoder_input_ids=start).logits[0, 0].numpy() for row in rows]
    return np.stack(found)


def generated_logits(model: Any, rows: list[np.ndarray]) -> np.ndarray:
    """float32 [n, vocabulary]: the scores of the first step of transformers' generate, padded together."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    how = {"max_new_tokens": 1, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **how)
    return np.asarray(out.scores[0].numpy())


def write_graphs(folder: Path, model: Any) -> None:
    """encoder_model.onnx and decoder_model.onnx, with the names of inputs and outputs that optimum gives them."""

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.encoder

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.inner(input_ids=ids, attention_mask=mask).last_hidden_state

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, mask: Any, ids: Any, states: Any) -> Any:
            given = {"encoder_outputs": (states,), "attention_mask": mask, "decoder_input_ids": ids, "use_cache": False}
            return self.inner(**given).logits

    ids, states = torch.full((2, 7), 5), torch.randn(2, 7, model.config.d_model)
    mask = torch.ones_like(ids)
    graphs: list[tuple[str, Any, tuple[Any, ...], list[str], str]] = [
        ("encoder", Encoder(), (ids, mask), ["input_ids", "attention_mask"], "last_hidden_state"),
        ("decoder", Decoder(), (mask, ids[:, :1], states), ["encoder_attention_mask", "input_ids", "encoder_hidden_states"], "logits"),
    ]
    for name, module, args, inputs, output in graphs:
        steps = ("input_ids", "logits") if name == "decoder" else ()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                args,
                folder / f"{name}_model.onnx",
                input_names=inputs,
                output_names=[output],
                dynamic_axes={one: {0: "n", 1: "steps" if one in steps else "tokens"} for one in [*inputs, output]},
                opset_version=17,
                dynamo=False,
            )
