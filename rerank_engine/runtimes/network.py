"""From a model's files to what runs them: the choice of runtime, device and precision, in one place.

"auto" on a CPU: ONNX Runtime, by the model's ONNX file, or by a packed graph made of its .safetensors; torch for what has no packed graph.
"auto" on a GPU: torch and our kernels for the families that they run, else ONNX Runtime's CUDA provider. What is named is taken or refused.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import replace
from functools import cache
from typing import Any

from ..backends import RUNTIMES, try_import
from ..errors import BackendUnavailable, CorruptModelError, InputError, MissingDependency, ModelError, UnsupportedModelError
from .base import Runtime
from .checkpoint import read_checkpoint
from .encoder import Encoder
from .families import FAMILIES, Config, readable
from .files import ModelFiles

PRECISIONS = ("auto", "float32", "float16", "bfloat16")


def open_network(
    files: ModelFiles,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    pad_id: int = 0,
    limit: int = 512,
    pack: bool = True,
    choice: tuple[int, int] | None = None,
) -> Runtime:
    """precision: of ONNX Runtime "auto", as the file has it, or "float32", which brings a dynamic int8 file back to float32; of TensorRT
    float16; of torch "auto" (float32 on a CPU, half on a GPU) or any. pack: whether an ONNX file is to be rewritten without padding.
    choice: see read_checkpoint. limit: the longest input.

    Raises BackendUnavailable, UnsupportedModelError, MissingDependency, CorruptModelError, UnsafeModelError, InputError.
    """
    _require_known(runtime, device, precision)
    where = _device(runtime, device)
    if runtime == "auto":
        runtime = _runtime(files, where, precision, choice)
        if (where, device, runtime) == ("cuda", "auto", "onnx") and not (_onnx_on_cuda() and _onnx_takes(files)):
            where = "cpu"  # nobody asked for the GPU, and this onnxruntime has no provider for it, or the network no graph
            runtime = _runtime(files, where, precision, choice)
    elif (where, device, runtime) == ("cuda", "auto", "onnx") and not _onnx_takes(files):
        where = "cpu"
    _require_runs(runtime, where)
    if runtime == "torch":
        from .torch import TorchRuntime

        made = read_encoder(files, choice)
        return TorchRuntime(made, device=where, precision=precision, threads=threads, fingerprint=fingerprint(files))
    if precision not in (("auto", "float16") if runtime == "tensorrt" else ("auto", "float32")):
        hint = "Take runtime='torch', or a file of that precision."
        raise BackendUnavailable(f"runtime {runtime}: precision '{precision}' asked for", hint=hint)
    return _onnx(files, runtime, where, precision, threads, pad_id, limit, pack)


def open_seq2seq(
    files: ModelFiles,
    answers: tuple[int, ...],
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    pad_id: int = 0,
) -> Runtime:
    """Of an encoder with a decoder; answers: see read_t5. "auto" takes torch, which runs it without padding, where there are .safetensors
    and torch is installed, else ONNX Runtime by the two graphs, which pads and computes the logits of the whole vocabulary.

    precision: of torch "auto" (float32 on a CPU, bfloat16 on a GPU), "float32" or "bfloat16"; of ONNX Runtime "auto", as the files have it.
    Raises BackendUnavailable, UnsupportedModelError, MissingDependency, CorruptModelError, UnsafeModelError, InputError.
    """
    from .t5 import read_t5, t5_architecture

    _require_known(runtime, device, precision)
    where = _device(runtime, device)
    if runtime == "auto":
        runtime = "torch" if files.weights is not None and (files.onnx is None or try_import("torch") is None) else "onnx"
        if (where, device, runtime) == ("cuda", "auto", "onnx") and not _onnx_on_cuda():
            where = "cpu"
    if runtime == "tensorrt":
        hint = "Take runtime='torch' or 'onnx'."
        raise BackendUnavailable("runtime tensorrt asked for, but it runs no model with a decoder", hint=hint)
    _require_runs(runtime, where)
    architecture = t5_architecture(files.name, files.config)
    if (files.weights if runtime == "torch" else files.onnx) is None:
        got, expected = ("no .safetensors", "them") if runtime == "torch" else ("no ONNX graphs", "encoder_model.onnx, decoder_model.onnx")
        hint = "save_pretrained(FOLDER) writes them." if runtime == "torch" else "Export it: optimum-cli export onnx --model NAME FOLDER."
        raise UnsupportedModelError(f"model '{files.name}' by runtime {runtime}", got=got, expected=expected, hint=hint)
    if runtime == "torch":
        from .t5_torch import T5Torch

        how: dict[str, Any] = {"device": where, "precision": precision, "threads": threads}
        read = read_t5(files.name, files.folder, files.config, answers)
        return T5Torch(read, **how, fingerprint=_fingerprint_of_weights(files))
    if precision != "auto":
        hint = "Take runtime='torch', or files of that precision."
        raise BackendUnavailable(f"runtime onnx: precision '{precision}' asked for", hint=hint)
    from .t5_onnx import T5Onnx

    assert files.onnx is not None
    return T5Onnx(files.onnx, answers, architecture.start, device=where, threads=threads, pad_id=pad_id)


def _require_known(runtime: str, device: str, precision: str) -> None:
    """Raises BackendUnavailable, InputError for what no model has."""
    if runtime not in ("auto", *RUNTIMES):
        available = f"Available: {', '.join(RUNTIMES)}."
        raise BackendUnavailable(f"runtime '{runtime}' asked for, but there is none of that name", hint=available)
    if precision not in PRECISIONS:
        raise InputError("precision", got=precision, expected="one of " + ", ".join(PRECISIONS))
    if not isinstance(device, str):
        raise InputError("device", got=device, expected="a string, such as cpu or cuda")


def _require_runs(runtime: str, device: str) -> None:
    """Raises BackendUnavailable for a device that a runtime does not know, and for torch where it is not installed."""
    if device not in RUNTIMES[runtime]:
        known = f"It knows {', '.join(RUNTIMES[runtime])}."
        raise BackendUnavailable(f"runtime {runtime}: device '{device}' asked for", hint=known)
    if runtime == "torch" and (reason := try_import("torch")) is not None:
        raise BackendUnavailable(f"runtime torch asked for, but {reason}", hint="pip install torch, or take runtime='onnx'.")


def _onnx(
    files: ModelFiles, runtime: str, device: str, precision: str, threads: int | None, pad_id: int, limit: int, pack: bool
) -> Runtime:
    from .onnx import OnnxRuntime, read_checked
    from .packed_onnx import PackedOnnx, open_onnx

    if runtime == "tensorrt" and files.onnx is None:
        got, hint = "no ONNX file", "Export it: optimum-cli export onnx --model NAME FOLDER."
        raise UnsupportedModelError(f"model '{files.name}' by runtime tensorrt", got=got, expected="one", hint=hint)
    if files.onnx is None:
        return PackedOnnx(read_encoder(files), device=device, threads=threads, fingerprint=fingerprint(files))
    if runtime == "tensorrt":
        return OnnxRuntime(files.onnx, device="tensorrt", threads=threads, pad_id=pad_id, limit=limit)
    if precision == "float32" and read_checked(files.onnx)[1].batch_sensitive:
        return PackedOnnx(read_encoder(files), device=device, threads=threads, fingerprint=fingerprint(files), note="int8, as float32")
    if pack:
        return open_onnx(files.onnx, files.config, device=device, threads=threads, pad_id=pad_id, limit=limit)
    return OnnxRuntime(files.onnx, device=device, threads=threads, pad_id=pad_id)


def read_encoder(files: ModelFiles, choice: tuple[int, int] | None = None) -> Encoder:
    """Of the .safetensors if there are any that are understood, else of the ONNX file. Raises UnsupportedModelError."""
    if files.weights is not None and readable(files.config):
        made = read_checkpoint(files.name, files.folder, files.config, choice)
        return Encoder(replace(made.architecture, **files.sparse), made.weights) if files.sparse else made
    if files.onnx is None:
        told = repr(files.config.get("architectures"))
        hint = "Export it: optimum-cli export onnx --model NAME FOLDER."
        raise UnsupportedModelError(
            f"model '{files.name}', which has no ONNX file", got=told, expected="a family with a runtime", hint=hint
        )
    from .onnx_weights import encoder_of

    return encoder_of(files.onnx, files.config, str(files.onnx))


def fingerprint(files: ModelFiles) -> str:
    """sha256 of the files that the weights come from: all shards, or the ONNX file with its external data."""
    if files.weights is None or not readable(files.config):
        from .onnx import fingerprint_of, read_checked

        assert files.onnx is not None
        return fingerprint_of(files.onnx, *read_checked(files.onnx))
    return _fingerprint_of_weights(files)


def _fingerprint_of_weights(files: ModelFiles) -> str:
    assert files.weights is not None
    digest, shards = hashlib.sha256(), sorted(files.folder.glob("*.safetensors"))
    try:
        for path in [files.weights] if files.weights.suffix == ".safetensors" else [files.weights, *shards]:
            with path.open("rb") as file:
                while chunk := file.read(1 << 24):
                    digest.update(chunk)
    except OSError as error:
        raise CorruptModelError(f"model '{files.name}'", got=str(error), expected="readable weights") from error
    return digest.hexdigest()


def _runtime(files: ModelFiles, device: str, precision: str, choice: tuple[int, int] | None) -> str:
    """What "auto" takes on a device."""
    if choice is not None or precision in ("float16", "bfloat16"):
        return "torch"
    has_torch = try_import("torch") is None
    if device == "cuda":
        return "torch" if has_torch and _as_encoder(files) else "onnx"
    if files.onnx is not None:
        return "onnx"
    from .packed_graph import refuse

    told = readable(files.config)
    if told is None:
        return "onnx"
    family, classifier = FAMILIES[told]
    packs = refuse(family(Config(files.name, files.config), classifier)[0]) is None and try_import("onnx") is None
    return "onnx" if packs or not has_torch else "torch"


def _onnx_takes(files: ModelFiles) -> bool:
    """Whether ONNX Runtime has a graph of it for a GPU: of a masked-LM head there is one for the CPU alone."""
    return files.onnx is not None or not (readable(files.config) or "").endswith("ForMaskedLM")


def _as_encoder(files: ModelFiles) -> bool:
    """Whether its weights can be read; of an ONNX file alone that is known once it has been."""
    if files.weights is not None and readable(files.config):
        return True
    try:
        read_encoder(files)
    except (ModelError, MissingDependency):
        return False
    return True


def _device(runtime: str, device: str) -> str:
    if device != "auto":
        return device
    if not has_gpu():
        return "cpu"
    if runtime in ("auto", "torch") and try_import("torch") is None:
        from .torch import refusal

        if refusal("cuda") is None:
            return "cuda"
    return "cuda" if runtime != "torch" and _onnx_on_cuda() else "cpu"


def _onnx_on_cuda() -> bool:
    from .onnx import probe

    return probe("cuda")[0] is None


def probe_torch(device: str) -> tuple[str | None, str]:
    """(None or why not, detail)"""
    if (reason := try_import("torch")) is not None:
        return reason, ""
    from .torch import probe

    return probe(device)


def probe_tensorrt(device: str) -> tuple[str | None, str]:
    """Of TensorRT through ONNX Runtime: (None or why not, detail)"""
    from .onnx import probe

    return probe("tensorrt")


@cache
def has_gpu() -> bool:
    """Whether NVIDIA's driver is there and knows a device: asked of the driver itself, since importing torch for it takes seconds."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
