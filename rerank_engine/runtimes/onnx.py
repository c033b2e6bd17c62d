"""ONNX Runtime: threads set from what this process may use, files checked before they are opened, the device verified after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpus import resolve_threads
from ..errors import BackendUnavailable, CorruptModelError, MissingDependency, ModelError, UnsupportedModelError
from ..packed import Packed
from . import onnx_file

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}

# A model of one Identity node on a float, as protobuf: small enough to try a provider with.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)


class OnnxRuntime:
    """One ONNX model in one session. Raises CorruptModelError, UnsafeModelError, UnsupportedModelError, BackendUnavailable.

    threads: intra-op threads, None for what this process may use (ONNX Runtime alone would size its pool to the host).
    pad_id: the token that fills up a batch; it is masked, but some graphs count positions by it.
    """

    name = "onnx"

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None, pad_id: int = 0) -> None:
        self.device, self.threads, self.pad_id = device, resolve_threads(threads), pad_id
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CorruptModelError(str(path), got=str(error), expected="a readable ONNX file") from error
        info = onnx_file.inspect(path, data)
        onnx_file.check_external(path, info.external)
        self.batch_sensitive = info.batch_sensitive
        # Without external data the checked bytes are what is loaded, whatever happens to the file meanwhile.
        self._session = open_session(str(path) if info.external else data, device, self.threads, str(path))
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self._inputs = {}
        for entry in self._session.get_inputs():
            if entry.name not in INPUTS or entry.type not in DTYPES:
                hint = "Export the model for sequence classification or feature extraction."
                raise UnsupportedModelError(
                    f"{path}: input", got=f"{entry.name} {entry.type}", expected=", ".join(INPUTS) + " of integers", hint=hint
                )
            self._inputs[entry.name] = DTYPES[entry.type]
        if "input_ids" not in self._inputs:
            raise UnsupportedModelError(f"{path}: inputs", got=", ".join(self._inputs) or "none", expected="input_ids")

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        lengths = ids.lengths
        shape = (len(ids), int(lengths.max()))
        mask = np.arange(shape[1]) < lengths[:, None]
        padded = {name: np.zeros(shape, dtype) for name, dtype in self._inputs.items()}
        padded["input_ids"][:] = self.pad_id
        padded["input_ids"][mask] = ids.values
        if "attention_mask" in padded:
            padded["attention_mask"][:] = mask if attended is None else np.arange(shape[1]) < attended[:, None]
        if "token_type_ids" in padded:
            padded["token_type_ids"][mask] = types.values
        try:
            result: NDArray[Any] = self._session.run([output], padded)[0]
        except Exception as error:  # onnxruntime's own tree
            got = f"onnxruntime: {(str(error).splitlines() or [''])[0]}"
            raise ModelError(f"the model failed on {shape[0]} inputs of up to {shape[1]} tokens", got=got) from error
        return result.astype(np.float32, copy=False)

    def __repr__(self) -> str:
        return f"OnnxRuntime({self.device}, {self.threads} threads)"


def open_session(model: str | bytes, device: str, threads: int, name: str) -> Any:
    """A session on `device`, verified: onnxruntime quietly falls back to the CPU when a GPU provider does not come up."""
    if device not in PROVIDERS:
        raise BackendUnavailable(f"runtime onnx: device '{device}' asked for", hint=f"It knows {', '.join(PROVIDERS)}.")
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # patterns are kept per input shape, and here every batch has its own
    options.log_severity_level = 4
    # Threads that spin while they wait gain a little on an idle machine and cost a multiple on one that does other work too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Otherwise bytes that also read as ORT's own format would be loaded as that, past what onnx_file has checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    wanted = PROVIDERS[device]
    if wanted not in ort.get_available_providers():
        raise BackendUnavailable(f"runtime onnx: device '{device}' asked for, but this onnxruntime has no {wanted}", hint=_gpu_hint(device))
    try:
        session = ort.InferenceSession(model, options, providers=[wanted], enable_fallback=0)  # else it prints, and takes the CPU
    except Exception as error:
        raise CorruptModelError(
            name, got=f"onnxruntime cannot load it ({(str(error).splitlines() or [''])[0]})", expected="an ONNX model it can run"
        ) from error
    if session.get_providers()[0] != wanted:
        raise BackendUnavailable(
            f"runtime onnx: device '{device}' asked for, but the session came up on {session.get_providers()[0]}", hint=_gpu_hint(device)
        )
    return session


def probe(device: str) -> tuple[str | None, str]:
    """(None or why not, detail), found by running a one-node model on the device."""
    try:
        session = open_session(_IDENTITY, device, 1, "probe")
        session.run(None, {"x": np.zeros(1, np.float32)})
    except (BackendUnavailable, MissingDependency, CorruptModelError) as error:
        return str(error), ""
    return None, f"onnxruntime {_onnxruntime().__version__}, {PROVIDERS[device]} ran a model"


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise MissingDependency(
            "ONNX models need onnxruntime", hint="pip install onnxruntime tokenizers protobuf (the extra [cpu])."
        ) from error
    return onnxruntime


def _gpu_hint(device: str) -> str:
    return "" if device == "cpu" else "Install the extra [gpu] with a driver, CUDA 13 and cuDNN 9, or take device='cpu'."
