"""Costs on a GPU that nobody measured: predicted by its data sheet, and by the share of it that our measured GPU reached.

    ms of a model = fixed + FLOPs / (efficiency * peak)
    FLOPs of T tokens = layers * (24 h^2 T + 4 h S), h the hidden size, S the sum of squared lengths

fixed, efficiency and the host's ms a pair are fitted to what was measured on the GPU that data/devices.json names (benchmarks.plan_data).
What is no model (search, fusion, scoring by an index) stays on the host, at the costs that were calibrated there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from ..errors import InputError
from .costs import Costs, StageCost


def facts() -> dict[str, Any]:
    """{"measured_on", "efficiency", "fixed_ms", "host_ms_per_pair", "error", "cards": name -> TFLOP/s, "models": name -> [h, layers]}"""
    return dict(json.loads((files(__package__) / "data" / "devices.json").read_text()))


def costs_on(device: str, host: Costs) -> Costs:
    """Raises InputError for an unknown card, or a model of unknown size."""
    told = facts()
    cards: Mapping[str, float] = told["cards"]
    card = next((name for name in cards if device.lower() in (name.lower(), name.split()[0].lower())), None)
    if card is None:
        raise InputError("plan: device", got=device, expected="cpu, or one of " + ", ".join(cards))
    return replace(host, stages=tuple(_on(cost, cards[card], told) for cost in host.stages), predicted=True)


def _on(cost: StageCost, tflops: float, told: Mapping[str, Any]) -> StageCost:
    if not cost.model:
        return cost
    if cost.model not in told["models"]:
        raise InputError("plan: device", got=f"the model '{cost.model}'", expected="one of " + ", ".join(told["models"]))
    hidden, layers = told["models"][cost.model]
    per_flop = 1e-9 / (tflops * told["efficiency"])  # ms
    token, square = 24 * layers * hidden**2 * per_flop, 4 * layers * hidden * per_flop
    named = {"backend": f"predicted from {told['measured_on']}", "precision": cost.precision, "fixed_ms": told["fixed_ms"]}
    error = max(cost.error, told["error"])
    if cost.stage == "cross":
        host = told["host_ms_per_pair"]
        return replace(cost, **named, per_document_ms=host, per_token_ms=token, per_square_ms=square, per_query_token_ms=0.0, error=error)
    return replace(cost, **named, per_query_token_ms=token, error=error)
