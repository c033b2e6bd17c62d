"""ONNX files as torch exports them from the small random checkpoints of `reference_models`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from reference_models import torch


def write_onnx(folder: Path, model: Any, family: str) -> Path:
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if family.startswith("bert") else [])]
    ids = torch.full((2, 8), 5)
    output = "logits" if hasattr(model, "classifier") else "last_hidden_state"
    forward = model.forward
    model.forward = lambda *given: getattr(forward(**dict(zip(names, given))), output)
    axes = {name: {0: "n", 1: "tokens"} for name in names} | {output: {0: "n"} if output == "logits" else {0: "n", 1: "tokens"}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args = tuple(torch.ones_like(ids) if name == "attention_mask" else ids * (name == "input_ids") for name in names)
            torch.onnx.export(
                model,
                args,
                folder / "model.onnx",
                input_names=names,
                output_names=[output],
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
    finally:
        del model.forward
    return folder / "model.onnx"
