"""ONNX Runtime: threads set from what this process may use, files checked before they are opened, the device verified after."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpus import resolve_threads
from ..errors import CorruptModelError, InputError, ModelError, UnsupportedModelError
from ..packed import Packed
from . import onnx_file
from .onnx_session import BUCKETS, PROVIDERS, open_session, probe, provider_options

__all__ = ["PROVIDERS", "OnnxRuntime", "fingerprint_of", "open_session", "probe", "read_checked"]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class OnnxRuntime:
    """One ONNX model as it was published, in one session.

    device: "cpu", "cuda", or "tensorrt": TensorRT's provider on CUDA, which then is the runtime `tensorrt` on the device `cuda`.
    threads: None for what this process may use (ONNX Runtime alone would size its pool to the host). workers: how many calls may go on at
    the same time, each with threads // workers threads: 1 is best for a call alone, `threads` for many sequences.
    pad_id: the token that fills up a batch; it is masked, but some graphs count positions by it. limit: the longest input, for TensorRT.
    note: why the network runs in the form it does, where another was possible. fingerprint: of what is in the file, 64 hexadecimal digits.
    Raises CorruptModelError, UnsafeModelError, UnsupportedModelError, BackendUnavailable, InputError.
    """

    form = note = ""

    def __init__(
        self, path: Path, *, device: str = "cpu", threads: int | None = None, workers: int = 1, pad_id: int = 0, limit: int = 512
    ) -> None:
        self.threads, self.pad_id = resolve_threads(threads), pad_id
        self.workers = check_workers(workers, self.threads)
        self.name, self.device = ("tensorrt", "cuda") if device == "tensorrt" else ("onnx", device)
        data, info = read_checked(path)
        self.batch_sensitive, self.fingerprint = info.batch_sensitive, fingerprint_of(path, data, info)
        # Without external data the checked bytes are what is loaded, whatever happens to the file meanwhile.
        model: str | bytes = str(path) if info.external else data
        threads = self.threads // self.workers
        if device == "tensorrt":
            inputs = [name for name in INPUTS if name in info.inputs]
            options = provider_options(device, content=self.fingerprint, inputs=inputs, limit=limit)
            self._session = open_session(model, device, threads, str(path), options)
        else:
            self._session = open_session(model, device, threads, str(path))
        # A shape outside its range makes TensorRT build another engine, for minutes.
        self._most_rows = max(rows for rows, _ in BUCKETS) if device == "tensorrt" else None
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
        if self._most_rows and len(ids) > self._most_rows:
            return self._by_rows(ids, types, output, attended, self._most_rows)
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

    def _by_rows(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None, most: int) -> NDArray[np.float32]:
        parts = list[NDArray[np.float32]]()
        for start in range(0, len(ids), most):
            rows = range(start, min(start + most, len(ids)))
            own = [Packed.from_rows([packed[row] for row in rows]) for packed in (ids, types)]
            parts.append(self.run(own[0], own[1], output, None if attended is None else attended[rows.start : rows.stop]))
        if parts[0].ndim == 2:
            return np.concatenate(parts)
        longest = max(part.shape[1] for part in parts)
        return np.concatenate([np.pad(part, [(0, 0), (0, longest - part.shape[1]), (0, 0)]) for part in parts])

    def __repr__(self) -> str:
        return f"OnnxRuntime({self.name}/{self.device}, {self.threads} threads, {self.workers} calls at a time)"


def read_checked(path: Path) -> tuple[bytes, onnx_file.OnnxFile]:
    """The bytes of a file and what they say, once it points to nothing outside its folder. Raises CorruptModelError, UnsafeModelError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptModelError(str(path), got=str(error), expected="a readable ONNX file") from error
    info = onnx_file.inspect(path, data)
    onnx_file.check_external(path, info.external)
    return data, info


def fingerprint_of(path: Path, data: bytes, info: onnx_file.OnnxFile) -> str:
    """SHA-256 over the file and its external data."""
    digest = hashlib.sha256(data)
    for location in sorted(info.external):
        with (path.parent / location).open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def check_workers(workers: int | None, threads: int) -> int:
    """None -> one call for each thread. Raises InputError."""
    if workers is None:
        return threads
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= threads:
        raise InputError("workers", got=workers, expected=f"an integer from 1 to {threads}, the threads, or None for as many")
    return workers
