"""One decoder step of a seq2seq model by ONNX Runtime, from the two graphs that optimum exports: the edge where it is padded.

encoder: input_ids, attention_mask int [n, longest] -> last_hidden_state [n, longest, hidden]
decoder: input_ids int [n, 1], encoder_attention_mask int [n, longest], encoder_hidden_states -> logits [n, 1, vocabulary], and what a
further step would need, which is not asked for
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpus import resolve_threads
from ..errors import InputError, ModelError, UnsupportedModelError
from ..packed import Packed
from .files import decoder_of
from .onnx import DTYPES, OnnxRuntime, fingerprint_of, open_session, read_checked

STATES, MASK, IDS = "encoder_hidden_states", "encoder_attention_mask", "input_ids"
INPUTS: dict[str, dict[str, Any]] = {IDS: DTYPES, MASK: DTYPES, STATES: {"tensor(float)": np.float32, "tensor(float16)": np.float16}}


class T5Onnx:
    """A Runtime whose one output, "logits" float32 [n, 1], is the answer's logit at the first decoder step: that of one token, or
    logit[first] - logit[second] of two.

    encoder: the path of its graph; the decoder's lies beside it (see decoder_of). start: the token that the decoder is given. device:
    "cpu" or "cuda"; threads, pad_id: see OnnxRuntime.
    Raises CorruptModelError, UnsafeModelError, UnsupportedModelError, BackendUnavailable, InputError.
    """

    name, form, workers = "onnx", "padded", 1
    outputs: tuple[str, ...] = ("logits",)

    def __init__(
        self, encoder: Path, answers: tuple[int, ...], start: int, *, device: str = "cpu", threads: int | None = None, pad_id: int = 0
    ) -> None:
        path = decoder_of(encoder)
        if path == encoder:
            hint = "Leave file= out, or name the encoder's: the decoder is found beside it."
            raise InputError("file", got=encoder.name, expected="encoder_model.onnx", hint=hint)
        self.device, self.threads = device, resolve_threads(threads)
        self._answers, self._start = answers, start
        self._encoder = OnnxRuntime(encoder, device=device, threads=self.threads, pad_id=pad_id)
        if "last_hidden_state" not in self._encoder.outputs:
            got = ", ".join(self._encoder.outputs)
            raise UnsupportedModelError(f"{encoder}: outputs", got=got, expected="last_hidden_state, as optimum exports an encoder")
        data, info = read_checked(path)
        self.batch_sensitive = self._encoder.batch_sensitive or info.batch_sensitive
        self.fingerprint = f"{self._encoder.fingerprint}{fingerprint_of(path, data, info)}"
        self._decoder = open_session(str(path) if info.external else data, device, self.threads, str(path))
        found = {entry.name: entry.type for entry in self._decoder.get_inputs()}
        outputs = [output.name for output in self._decoder.get_outputs()]
        if not {IDS, STATES} <= set(found) <= set(INPUTS) or "logits" not in outputs or not all(found[n] in INPUTS[n] for n in found):
            got = ", ".join(f"{name} {kind}" for name, kind in found.items()) + " -> " + ", ".join(outputs[:3])
            hint = "Take decoder_model.onnx, which has no cache of earlier steps."
            raise UnsupportedModelError(f"{path}: inputs and outputs", got=got, expected=f"{', '.join(INPUTS)} -> logits", hint=hint)
        self._types: dict[str, Any] = {name: INPUTS[name][kind] for name, kind in found.items()}

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """See Runtime.run; types are not looked at."""
        if output != "logits" or attended is not None:
            got = f"output '{output}'" + ("" if attended is None else " of a part of the tokens")
            raise ModelError("runtime onnx", got=got, expected="logits, of all tokens")
        states = self._encoder.run(ids, types, "last_hidden_state")
        mask = np.arange(states.shape[1]) < ids.lengths[:, None]
        given = {IDS: np.full((len(ids), 1), self._start), MASK: mask, STATES: states}
        try:
            logits: NDArray[Any] = self._decoder.run(["logits"], {name: given[name].astype(kind) for name, kind in self._types.items()})[0]
        except Exception as error:  # onnxruntime's own tree
            got = f"onnxruntime: {(str(error).splitlines() or [''])[0]}"
            raise ModelError(f"the decoder failed on {len(ids)} inputs of up to {mask.shape[1]} tokens", got=got) from error
        if logits.ndim != 3 or logits.shape[:2] != (len(ids), 1) or logits.shape[2] <= max(self._answers):
            got = f"logits {list(logits.shape)} for {len(ids)} inputs"
            raise ModelError("the decoder", got=got, expected=f"[{len(ids)}, 1, more than {max(self._answers)}]")
        wanted = logits[:, 0, list(self._answers)].astype(np.float32)
        return wanted if wanted.shape[1] == 1 else wanted[:, :1] - wanted[:, 1:]

    def __repr__(self) -> str:
        return f"T5Onnx({self.name}/{self.device}, {self.threads} threads)"
