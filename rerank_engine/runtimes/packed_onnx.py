"""Packed graphs in ONNX Runtime: from an ONNX file as it was published, or from an `Encoder`, to a runtime without padding.

A file is rewritten once: its weights are read (`onnx_weights`), a packed graph is written (`packed_graph`), both run a few sequences of
several lengths, and only when they agree is the packed one kept, on disk, under a hash of the file and of everything that made it. What is
not recognised, or does not agree, runs as it was published, and `note` says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpus import resolve_threads
from ..errors import CorruptModelError, MissingDependency, ModelError, UnsupportedModelError
from ..packed import Packed
from .cost import Cost
from .encoder import Architecture, Encoder, places_of
from .files import user_cache
from .onnx import OnnxRuntime, check_workers, fingerprint_of, read_checked
from .onnx_session import onnxruntime_package, open_session
from .onnx_weights import encoder_of
from .packed_graph import ALIGN, OPSET, PIECE, VERSION, beside, onnx_package, packed_graph

# In tokens of the linear layers: see benchmarks/bench_cross_encoder.py. Attention pads to the longest of a call; the rest sees no padding.
COSTS = {
    "cpu": Cost(call=5, square=6e-4, padded=False, ragged=False, most=512),
    "cuda": Cost(call=2048, square=1e-4, padded=False, ragged=True, most=16_384),
}
KINDS = {"cpu": "cpu", "cuda": "cuda"}  # device -> kind of graph; TensorRT's provider has no packed attention
PROBES = (2, 7, 24, 65)  # tokens of the sequences that both graphs must agree on
AGREE = 1e-4  # of the size of the largest output, at least 1
MODEL, WEIGHTS, RECORD = "packed.onnx", "weights.bin", "record.json"
CONFIG = ("model_type", "hidden_act", "num_attention_heads", "layer_norm_eps", "position_embedding_type", "pad_token_id")


class PackedOnnx:
    """An encoder on packed tokens. outputs: ("logits",) of one with a classifier, ("weights",) of one with a masked-LM head, else
    ("last_hidden_state",).

    threads: None for what this process may use. workers: how many calls may go on at the same time, each with threads // workers threads of
    one session, so weights are in memory once; None: one for each thread. A single call is fastest with workers=1.
    folder: where `write` has put the graph; by default it is written to a temporary one. Raises UnsupportedModelError (an architecture
    without a packed graph), BackendUnavailable, MissingDependency, CorruptModelError.
    """

    name, batch_sensitive, form = "onnx", False, "packed"

    def __init__(
        self,
        encoder: Encoder | Architecture,
        *,
        device: str = "cpu",
        threads: int | None = None,
        workers: int | None = None,
        fingerprint: str = "",
        folder: Path | None = None,
        note: str = "",
    ) -> None:
        if device not in KINDS:
            raise UnsupportedModelError(f"packed ONNX graph: device '{device}'", expected=f"one of {', '.join(KINDS)}")
        self.device, self.threads, self.note = device, resolve_threads(threads), note
        self.workers = check_workers(workers, self.threads) if device == "cpu" else 1
        self.architecture = encoder.architecture if isinstance(encoder, Encoder) else encoder
        self.fingerprint = f"{fingerprint}/packed{VERSION}" if fingerprint else ""
        self.outputs = self.architecture.outputs[:1]
        self.cost = COSTS[device]
        if folder is not None:
            self._session = self._open(folder)
            return
        if not isinstance(encoder, Encoder):
            raise UnsupportedModelError("packed ONNX graph", got="an architecture alone", expected="an encoder, or a folder that holds it")
        with tempfile.TemporaryDirectory(prefix="rerank-engine-") as made:
            write(encoder, KINDS[device], Path(made))
            self._session = self._open(Path(made))

    def _open(self, folder: Path) -> Any:
        return open_session(str(folder / MODEL), self.device, self.threads // self.workers, str(folder / MODEL))

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """See Runtime.run. Sequences of one length need no mask, and nothing is copied for them."""
        if output not in self.outputs:
            raise ModelError(f"runtime onnx: output '{output}'", got=", ".join(self.outputs), expected="one of the network's")
        feed = feed_of(self.architecture, KINDS[self.device], ids, types, attended)
        try:
            result: NDArray[Any] = self._session.run([output], feed)[0]
        except Exception as error:  # onnxruntime's own tree
            got = f"onnxruntime: {(str(error).splitlines() or [''])[0]}"
            raise ModelError(f"the model failed on {len(ids)} inputs of {len(ids.values)} tokens", got=got) from error
        if output == "logits":
            return result
        if output == "weights":
            return _joined(result, ids.lengths, self.architecture.pooling)
        lengths = ids.lengths
        states = np.zeros((len(ids), int(lengths.max()), self.architecture.hidden), np.float32)
        states[np.arange(states.shape[1]) < lengths[:, None]] = result
        return states

    def __repr__(self) -> str:
        return f"PackedOnnx({self.device}, {self.threads} threads, {self.workers} calls at a time)"


def feed_of(a: Architecture, kind: str, ids: Packed, types: Packed, attended: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
    """The inputs of a packed graph (see `packed_graph`) for n sequences. Raises ModelError for one longer than the position table."""
    lengths, starts = ids.lengths, ids.offsets[:-1]
    n, longest = len(ids), int(lengths.max())
    if longest > a.max_positions:
        raise ModelError("the model failed", got=f"an input of {longest} tokens", expected=f"at most {a.max_positions}")
    places = places_of(ids, a) + a.position_offset
    feed: dict[str, NDArray[Any]] = {"ids": ids.values.astype(np.int64, copy=False), "places": places}
    if a.types:
        # One row of types has nothing to tell apart: a tokenizer that numbers segments all the same must not run out of the table.
        feed["types"] = np.minimum(types.values.astype(np.int64, copy=False), a.types - 1)
    if a.head == "pooler":
        feed["firsts"] = starts.copy()
    if a.head == "vocabulary":
        begins = np.concatenate([np.arange(start, start + length, PIECE) for start, length in zip(starts.tolist(), lengths.tolist())])
        ends = np.minimum(begins + PIECE, ids.offsets[np.searchsorted(ids.offsets, begins, "right")])
        feed |= {"begins": begins[:, None], "ends": ends[:, None]}
    seen = lengths if attended is None else np.minimum(attended, lengths)
    if kind == "cpu":
        even = bool((lengths == longest).all() and (seen == lengths).all())
        feed |= {"even": np.array(even), "shape": np.array([n, longest, -1], np.int64)}
        if even:  # what the other branch reads may be anything
            return feed | {"block": np.zeros((1, 1), np.int64), "back": np.zeros(1, np.int64), "keys": np.ones((1, 1), np.int32)}
        places = np.arange(longest)
        real = places < lengths[:, None]
        block = np.where(real, starts[:, None] + places, 0)
        return feed | {"block": block, "back": np.flatnonzero(real), "keys": (places < seen[:, None]).astype(np.int32)}
    if (seen != lengths).any():
        raise ModelError("packed ONNX graph on a GPU", got="tokens that the others may not look at", expected="the graph as published")
    cumulative = ids.offsets.astype(np.int32)
    if kind == "ragged":
        return feed | {"cumulative": cumulative, **({"ones": np.arange(n + 1, dtype=np.int32)} if a.head != "none" else {})}
    real = (np.arange(longest) < lengths[:, None]).ravel()
    offsets = np.concatenate([np.flatnonzero(real), np.flatnonzero(~real)]).astype(np.int32).reshape(n, longest)
    return feed | {"offsets": offsets, "cumulative": cumulative}


def _joined(pieces: NDArray[np.float32], lengths: NDArray[np.int64], pooling: str) -> NDArray[np.float32]:
    """float32 [n, vocabulary] of what `weights` says of the pieces of each sequence."""
    counts = -(-lengths // PIECE)
    if len(pieces) == len(lengths):
        return pieces
    joined: NDArray[np.float32] = (np.maximum if pooling == "max" else np.add).reduceat(pieces, np.cumsum(counts) - counts, axis=0)
    return joined


def write(encoder: Encoder, kind: str, folder: Path) -> None:
    """The packed graph of an encoder into a folder: MODEL, and WEIGHTS beside it, which has no limit of 2 GB."""
    data, arrays = beside(*packed_graph(encoder, kind), WEIGHTS)
    with (folder / WEIGHTS).open("wb") as file:
        for array in arrays:
            file.write(array.tobytes() + bytes(-array.nbytes % ALIGN))
    (folder / MODEL).write_bytes(data)


def open_onnx(
    path: Path,
    config: Mapping[str, Any],
    *,
    device: str = "cpu",
    threads: int | None = None,
    workers: int | None = None,
    pad_id: int = 0,
    limit: int = 512,
) -> OnnxRuntime | PackedOnnx:
    """The runtime of an ONNX file: packed where that is the same network, else as published, with the reason in `note`.

    Raises what OnnxRuntime raises; what keeps a graph from being packed is never an error.
    """
    count = check_workers(workers, resolve_threads(threads)) if device == "cpu" else 1

    def published(why: str) -> OnnxRuntime:
        made = OnnxRuntime(path, device=device, threads=threads, workers=count, pad_id=pad_id, limit=limit)
        made.form, made.note = "as published", why
        return made

    data, info = read_checked(path)
    if device not in KINDS:
        return published("TensorRT's provider has no packed attention")
    if info.batch_sensitive:
        return published("it quantises activations while it runs: its scores are those of one sequence a call")
    try:
        versions = {"onnx": str(onnx_package().__version__), "onnxruntime": str(onnxruntime_package().__version__)}
    except MissingDependency as error:
        return published(str(error))
    fingerprint = fingerprint_of(path, data, info)
    del data
    known = {key: config.get(key) for key in CONFIG}
    made_by = json.dumps([fingerprint, VERSION, OPSET, KINDS[device], versions, known, PROBES, pad_id], sort_keys=True, default=repr)
    key = hashlib.sha256(made_by.encode()).hexdigest()[:40]
    options: dict[str, Any] = {"device": device, "threads": threads, "workers": workers, "fingerprint": fingerprint}
    found = _cached(user_cache() / "onnx" / key, options)
    if isinstance(found, str):
        return published(found)
    if found is not None:
        return found
    try:
        with _kept(user_cache() / "onnx" / key) as folder:
            runtime, record = _rewrite(path, config, folder, options, pad_id)
            (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    except OSError as error:
        return published(f"the packed graph cannot be written ({error})")
    return runtime if runtime is not None else published(record["refused"])


def _rewrite(
    path: Path, config: Mapping[str, Any], folder: Path, options: dict[str, Any], pad_id: int
) -> tuple[PackedOnnx | None, dict[str, Any]]:
    """(the packed runtime or None, what is to be remembered)."""
    try:
        encoder = encoder_of(path, config)
        write(encoder, KINDS[options["device"]], folder)
        architecture = encoder.architecture
        del encoder  # its weights need not stay while both run
        packed = PackedOnnx(architecture, folder=folder, **options)
        plain = OnnxRuntime(path, device=options["device"], threads=options["threads"], pad_id=pad_id)
        why = disagreement(packed, plain, architecture, pad_id)
    except (ModelError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{error}" if isinstance(error, ModelError) else f"a graph that is not understood ({type(error).__name__}: {error})"
    if why is not None:
        for name in (MODEL, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        return None, {"refused": why}
    sums = {name: _sum(folder / name) for name in (MODEL, WEIGHTS)}
    return packed, {"refused": None, "architecture": asdict(architecture), "files": sums}


def disagreement(packed: PackedOnnx, plain: OnnxRuntime, a: Architecture, pad_id: int) -> str | None:
    """Why the two are not the same network, or None: outputs of PROBES alone and in one call, within AGREE."""
    output = packed.outputs[0]
    if output not in plain.outputs or "sentence_embedding" in plain.outputs:
        return f"the packed graph has the output {output} alone, the file {', '.join(plain.outputs)}"
    rng = np.random.default_rng(0)
    lengths = [length for length in PROBES if length <= a.max_positions]
    rows = [rng.integers(0, a.vocabulary, length) for length in lengths]
    rows = [np.where(row == pad_id, (pad_id + 1) % a.vocabulary, row) for row in rows]
    if a.position_offset:  # its own token for padding may stand in a text, and moves the places behind it
        rows[-1][len(rows[-1]) // 2] = a.position_offset - 1
    kinds = [(np.arange(length) >= length // 2).astype(np.int64) % max(a.types, 1) for length in lengths]
    alone = [_states(plain, [row], [kind], output)[0] for row, kind in zip(rows, kinds)]
    size = max(1.0, *(float(np.abs(values).max()) for values in alone))
    together = _states(packed, rows, kinds, output)
    for row, kind, wanted, beside_others in zip(rows, kinds, alone, together):
        for got in (beside_others, _states(packed, [row], [kind], output)[0]):
            if got.shape != wanted.shape:
                return f"the packed graph gives {list(got.shape)}, the file {list(wanted.shape)}"
            worst = float(np.abs(got - wanted).max())
            if not worst <= AGREE * size:
                return f"the packed graph differs from the file by {worst:.2g} on {len(row)} tokens, outputs of up to {size:.2g}"
    return None


def _states(runtime: PackedOnnx | OnnxRuntime, rows: list[Any], kinds: list[Any], output: str) -> list[NDArray[np.float32]]:
    """One output per sequence, without its padding."""
    out = runtime.run(Packed.from_rows(rows, np.int64), Packed.from_rows(kinds, np.int64), output)
    return [values[: len(row)] if values.ndim == 2 else values for row, values in zip(rows, out)]


def _cached(folder: Path, options: dict[str, Any]) -> PackedOnnx | str | None:
    """What is remembered: a runtime, or why there is none. None when nothing is, or what is there is damaged."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if isinstance(record["refused"], str):
            return record["refused"]
        if {name: _sum(folder / name) for name in (MODEL, WEIGHTS)} != record["files"]:
            return None
        fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record["architecture"].items()}
        return PackedOnnx(Architecture(**fields), folder=folder, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CorruptModelError):
        return None


def _sum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _kept(folder: Path) -> Iterator[Path]:
    """A new folder, which takes the place of `folder` at the end, whole or not at all. A cache that cannot be written is no error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    except OSError:
        made = Path(tempfile.mkdtemp(prefix="rerank-engine-"))
    try:
        yield made
        if made.parent == folder.parent:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another process was faster
                os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
