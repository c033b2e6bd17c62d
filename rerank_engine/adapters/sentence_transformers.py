"""The calls of sentence-transformers' CrossEncoder over this package's models. Needs neither it nor torch.

The shape is that of sentence-transformers 6.2: `predict` and `rank`, their arguments and what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from .scoring import Model, name_of, pair_scores, require_model, scorer_of

Activation = str | Callable[[Any], Any] | None


class _Card:
    """Where that library's evaluators write what they found; here it is only returned by them."""

    def set_evaluation_metrics(self, *_: Any) -> None:
        """Nothing is kept."""


class CrossEncoder:
    """model_name_or_path: for `rr.load`, or a loaded scorer. activation_fn: "sigmoid", what it is by default for models of one label;
    "none"; or a function of the logits (float64 numpy). Arguments that only steer batches and progress bars are taken and not needed.
    """

    def __init__(self, model_name_or_path: Model = None, *, activation_fn: Activation = "sigmoid", **options: Any) -> None:
        unknown = sorted(
            set(options) - {"device", "max_length", "trust_remote_code", "revision", "local_files_only", "backend", "num_labels"}
        )
        if unknown or options.get("trust_remote_code"):
            got = ", ".join(unknown) or "trust_remote_code"
            raise InputError(
                "CrossEncoder", got=got, expected="arguments that this package has", hint="Load the model with rr.load and pass it."
            )
        self.activation_fn, self.model_card_data = activation_fn, _Card()
        if given := {key: options[key] for key in ("max_length", "revision", "device") if options.get(key) is not None}:
            from ..runtimes import load

            model_name_or_path = load(name_of(model_name_or_path), **given)  # type: ignore[assignment]
        self.model = scorer_of(require_model("CrossEncoder", model_name_or_path))

    def predict(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation = None,
        apply_softmax: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **_: Any,
    ) -> Any:
        """float32 [n] of (query, document) pairs; of one pair a scalar. convert_to_tensor: a torch tensor."""
        if prompt_name is not None or prompt is not None or apply_softmax:
            got = "a prompt" if prompt_name or prompt else "apply_softmax"
            raise InputError("predict", got=got, expected="models of one label without prompts here", hint="Use rr.load(prompt=).")
        single = len(inputs) == 2 and isinstance(inputs[0], str) and isinstance(inputs[1], str)
        pairs = [(query, text) for query, text in ([inputs] if single else inputs)]
        values = self._scores(pairs, activation_fn)
        found: Any = values
        if convert_to_tensor:
            import torch

            found = torch.from_numpy(values)
        elif not convert_to_numpy:
            found = list(values)
        return found[0] if single else found

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation = None,
        **_: Any,
    ) -> list[dict[str, Any]]:
        """[{"corpus_id", "score", "text" where `return_documents`}], best first. The order is that of the model's own scores."""
        if prompt_name is not None or prompt is not None:
            raise InputError("rank", got="a prompt", expected="models without prompts here", hint="Use rr.load(prompt=).")
        raw = pair_scores(self.model, [(query, text) for text in documents])
        shown = self._activated(raw, activation_fn)
        order = np.lexsort((np.arange(len(raw)), -raw))[:top_k].tolist()
        return [{"corpus_id": i, "score": shown[i], **({"text": documents[i]} if return_documents else {})} for i in order]

    def _scores(self, pairs: list[tuple[str, str]], activation: Activation) -> Any:
        return self._activated(pair_scores(self.model, pairs), activation)

    def _activated(self, raw: Any, activation: Activation) -> Any:
        from ..stages.cross import sigmoid

        chosen = self.activation_fn if activation is None else activation
        if callable(chosen):
            return np.asarray(chosen(raw), np.float32)
        if chosen not in (None, "none", "sigmoid"):
            raise InputError("activation_fn", got=chosen, expected="'sigmoid', 'none' or a function")
        return (sigmoid(raw) if chosen == "sigmoid" else raw).astype(np.float32)
