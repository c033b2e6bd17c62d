"""Sessions of ONNX Runtime: their options, the options of each provider, and the proof that the provider asked for is the one that runs.

device      providers, in this order
"cpu"       CPUExecutionProvider
"cuda"      CUDAExecutionProvider
"tensorrt"  TensorrtExecutionProvider, with CUDA behind it for what TensorRT does not take. It needs libnvinfer of the major version that
            this onnxruntime was built against: 10 for onnxruntime-gpu 1.31.

The CPU is not offered behind a GPU, so a provider that does not come up is an error. onnxruntime adds its CPU provider all the same, for
operators that the others lack, dynamic quantisation among them; which node ran where is not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendUnavailable, CorruptModelError, InputError, MissingDependency

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
Options = dict[str, str]

# (rows, tokens) of the padded blocks that TensorRT is tuned for. An engine takes every shape from (1, SHORTEST) to (its rows, its tokens).
BUCKETS = ((64, 64), (64, 128), (32, 256), (16, 512))
SHORTEST = 1
WORKSPACE = 2 << 30  # bytes that TensorRT may use while it tries kernels

# A model of one Identity node on a float, as protobuf: small enough to try a provider with.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d"
)


def cuda_options() -> Options:
    """The arena grows by what is asked for (doubling would keep up to twice the largest batch); cuDNN picks by rule, since each batch has a
    shape of its own and a search would be repeated for each; TF32 off: scores must not depend on the card."""
    return {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }


def shape_profiles(
    inputs: Sequence[str], limit: int, buckets: Sequence[tuple[int, int]] = BUCKETS
) -> tuple[Options, tuple[tuple[int, int], ...]]:
    """(trt_profile_*_shapes, the buckets in use): one range of shapes that holds every bucket up to `limit` tokens a row.

    onnxruntime takes one profile for each input, `name:DxD,name:DxD`; all inputs named here are [rows, tokens]. The best shape ("opt") is
    the bucket with most tokens in all,the shorter of equals: short passages are what re-rankers get.
    """
    if limit < 1:
        raise InputError("shape profiles: limit", got=limit, expected="1 token or more")
    used = tuple(dict.fromkeys((rows, min(tokens, limit)) for rows, tokens in buckets))
    best = max(used, key=lambda bucket: (bucket[0] * bucket[1], -bucket[1]))
    most = (max(rows for rows, _ in used), max(tokens for _, tokens in used))

    shapes = {"min": (1, min(SHORTEST, limit)), "opt": best, "max": most}
    return {f"trt_profile_{name}_shapes": ",".join(f"{i}:{shape[0]}x{shape[1]}" for i in inputs) for name, shape in shapes.items()}, used


def tensorrt_options(folder: Path, key: str, profiles: Mapping[str, str], *, half: bool = True, workspace: int = WORKSPACE) -> Options:
    """Engines and timings are kept in `folder`. key: from `engine_key`; onnxruntime itself adds the card's compute capability to the names
    of the files, so one folder serves several cards. half: products in float16, logits out in float32."""
    return {
        "trt_fp16_enable": str(int(half)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder / key),
        "trt_engine_cache_prefix": "rerank",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),  # timings are of kernels, not of a model: every model adds to the same file
        "trt_max_workspace_size": str(workspace),
        "trt_context_memory_sharing_enable": "1",
        **profiles,
    }


def engine_key(content: bytes | str, versions: Mapping[str, str], options: Mapping[str, str]) -> str:
    """32 hexadecimal digits from a model's bytes (or their digest), the versions of what builds the engine, and what shapes it."""
    digest = hashlib.sha256(content if isinstance(content, bytes) else content.encode())
    for part in (versions, options):
        digest.update(repr(sorted(part.items())).encode())
    return digest.hexdigest()[:32]


def provider_options(device: str, *, content: str = "", inputs: Sequence[str] = (), limit: int = 512, half: bool = True) -> list[Options]:
    """The options of each provider of a device, in its order. content: the digest of the model, for the engines' folder."""
    if device == "cpu":
        return [{}]
    if device == "cuda":
        return [cuda_options()]
    from .files import user_cache

    profiles, _ = shape_profiles(inputs, limit) if inputs else ({}, ())
    shaping = {**profiles, "half": str(half)}
    key = engine_key(content, {"onnxruntime": str(onnxruntime_package().__version__)}, shaping)
    return [tensorrt_options(user_cache() / "tensorrt", key, profiles, half=half), cuda_options()]


def open_session(model: str | bytes, device: str, threads: int, name: str, options: Sequence[Options] | None = None) -> Any:
    """A session on `device`, verified: onnxruntime quietly falls back to the CPU when a GPU provider does not come up.

    threads: intra-op threads of the session. options: of each provider of the device, by default none for the CPU and `cuda_options` for
    CUDA. Raises BackendUnavailable, CorruptModelError.
    """
    if device not in PROVIDERS:
        raise BackendUnavailable(f"runtime onnx: device '{device}' asked for", hint=f"It knows {', '.join(PROVIDERS)}.")
    ort, wanted = onnxruntime_package(), PROVIDERS[device]
    if wanted[0] not in ort.get_available_providers():
        missing = f"runtime onnx: device '{device}' asked for, but this onnxruntime has no {wanted[0]}"
        raise BackendUnavailable(missing, hint=_gpu_hint(device))
    given = list(options) if options is not None else provider_options(device)
    for path in (entry.get("trt_engine_cache_path") for entry in given):
        if path:
            Path(path).mkdir(parents=True, exist_ok=True)
    providers: list[Any] = [(provider, entry) if entry else provider for provider, entry in zip(wanted, given)]
    try:
        session = ort.InferenceSession(model, session_options(threads), providers=providers, enable_fallback=0)  # else it takes the CPU
    except Exception as error:
        got = f"onnxruntime cannot load it ({(str(error).splitlines() or [''])[0]})"
        raise CorruptModelError(name, got=got, expected="an ONNX model it can run") from error
    if (found := session.get_providers()[0]) != wanted[0]:
        came = f"runtime onnx: device '{device}' asked for, but the session came up on {found}"
        raise BackendUnavailable(came, hint=_gpu_hint(device))
    return session


def session_options(threads: int) -> Any:
    options = onnxruntime_package().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The arena keeps what the largest call so far took and grows on for hundreds of calls of varied shapes. The C library's allocator costs
    # no more time here, and gives memory back.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # patterns are kept per input shape, and here every batch has its own
    options.log_severity_level = 4
    # Threads that spin while they wait gain a little on an idle machine and cost a multiple on one that does other work too.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Otherwise bytes that also read as ORT's own format would be loaded as that, past what onnx_file has checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def probe(device: str) -> tuple[str | None, str]:
    """(None or why not, detail), found by running a one-node model on the device."""
    try:
        session = open_session(_IDENTITY, device, 1, "probe", [{} for _ in PROVIDERS.get(device, ())])
        session.run(None, {"x": np.zeros(1, np.float32)})
    except (BackendUnavailable, MissingDependency, CorruptModelError) as error:
        return str(error), ""
    return None, f"onnxruntime {onnxruntime_package().__version__}, {PROVIDERS[device][0]} ran a model"


def onnxruntime_package() -> Any:
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
    extra = " and TensorRT 10 (the extra [tensorrt])" if device == "tensorrt" else ""
    return "" if device == "cpu" else f"Install the extra [gpu] with a driver, CUDA 13 and cuDNN 9{extra}, or take device='cpu'."
