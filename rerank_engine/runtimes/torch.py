"""The torch runtime: an `Encoder` on packed tokens. On CUDA attention, norms and activations are our Triton kernels and short calls are
replayed as CUDA graphs; elsewhere, and for what the kernels do not take, attention is torch's own.

A pair's score does not depend on what it is batched with beyond rounding: no operation mixes sequences, but a matrix product may sum in
another order for another number of rows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..cpus import resolve_threads
from ..errors import BackendUnavailable, InputError, ModelError, UnsupportedModelError
from ..packed import Packed
from .cost import Cost
from .encoder import Architecture, Encoder, places_of
from .forward import Attention, Batch, Forward, Grouped, Varlen

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SHARED = 16  # tokens that all sequences of a causal network must begin with, for their keys and values to be made once
# In tokens of a linear layer: a call is some hundred operations, of microseconds each on a CPU; a GPU launches as many, and must be filled.
COSTS = {
    "cpu": Cost(call=16, token=1, square=1e-4, padded=False, ragged=True, most=4096),
    "cuda": Cost(call=4096, token=1, square=1e-4, padded=False, ragged=True, most=262_144),
}
LARGEST = 1 << 27  # numbers in the states of a call on a GPU, and in the weights of a call of a masked-LM head, anywhere
GRAPH_TOKENS = 16_384  # of a call on a GPU, whose states are always fine; of a masked-LM head there are no graphs


_THREADS = threading.Lock()


class TorchRuntime:
    """precision: of weights and products: "float32", "float16", "bfloat16"; None: float32 on a CPU, on CUDA float16, or bfloat16 for a
    decoder, whose states outgrow float16. kernels: Triton's, None for wherever they run (True on a CPU: in its interpreter, to test them).
    threads: of torch in this process, for the time of a call; None: what this process may use.

    Raises BackendUnavailable (the device), InputError (a precision), UnsupportedModelError (kernels=True for what they do not take).
    """

    name, batch_sensitive, form, workers = "torch", False, "packed", 1

    def __init__(
        self,
        encoder: Encoder,
        *,
        device: str = "cpu",
        precision: str | None = None,
        threads: int | None = None,
        kernels: bool | None = None,
        fingerprint: str = "",
    ) -> None:
        if (reason := refusal(device)) is not None:
            raise BackendUnavailable(f"runtime torch: device '{device}' asked for, but {reason}", hint="Take device='cpu'.")
        half = "bfloat16" if encoder.architecture.causal else "float16"
        self.precision = (half if device == "cuda" else "float32") if precision in (None, "auto") else str(precision)
        if self.precision not in PRECISIONS:
            raise InputError("precision", got=precision, expected="one of " + ", ".join(PRECISIONS))
        self.device, self.threads, self.fingerprint = (
            device,
            resolve_threads(threads),
            f"{fingerprint}/{self.precision}" if fingerprint else "",
        )
        refused = _kernels_refuse(encoder, device, PRECISIONS[self.precision])
        if kernels and refused is not None:
            raise UnsupportedModelError("runtime torch: the Triton kernels asked for", got=refused, expected="a network that they run")
        use = refused is None and (device == "cuda" or bool(kernels)) and kernels is not False
        self._forward = Forward(encoder, torch.device(device), PRECISIONS[self.precision], use)
        self.architecture, self.outputs = encoder.architecture, encoder.architecture.outputs
        self.cost = COSTS["cuda" if device == "cuda" else "cpu"]
        if encoder.architecture.head == "vocabulary":  # [sequences, vocabulary] come out, of a token each at least
            self.cost = capped(self.cost, LARGEST // encoder.architecture.vocabulary)
        elif device == "cuda":
            self.cost = capped(self.cost, max(GRAPH_TOKENS, LARGEST // encoder.architecture.hidden))
        self._graphs: Any = None
        if use and device == "cuda":
            from .graphs import Graphs

            self._graphs = Graphs(self._forward)

    def run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """See Runtime.run. Sequences of equal length stand side by side at best: they share a call of attention on a CPU."""
        if output not in self.outputs:
            raise ModelError(f"runtime torch: output '{output}'", got=", ".join(self.outputs), expected="one of the network's")
        self._check(ids)
        with calling(ids, self.device, self.threads):
            return self._on_cuda(ids, types, output, attended) if self.device == "cuda" else self._run(ids, types, output, attended)

    def _on_cuda(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None) -> NDArray[np.float32]:
        if self._graphs is not None and output == "logits" and attended is None and self._graphs.fits(ids):
            return np.asarray(self._graphs.run(ids, types))
        return self._run(ids, types, output, attended)

    def _check(self, ids: Packed) -> None:
        """Raises ModelError for what a look-up on a GPU would end the process for."""
        a, longest = self._forward.architecture, int(ids.lengths.max(initial=0))
        check_ids(ids, a.vocabulary)
        if a.positions == "absolute" and longest > a.max_positions:
            raise ModelError("the model failed", got=f"an input of {longest} tokens", expected=f"at most {a.max_positions}")

    def _run(self, ids: Packed, types: Packed, output: str, attended: NDArray[np.int64] | None) -> NDArray[np.float32]:
        net, a = self._forward, self._forward.architecture
        # The kernel takes no keys from elsewhere, and reading a prefix again costs it less than leaving it.
        shared = common_prefix(ids) if a.causal and attended is None and not net.kernels else 0
        prefix = self._prefix(ids[0][:shared]) if shared and output == "logits" else None
        if prefix is not None:
            ids, types = _without(ids, shared), _without(types, shared)
        lengths = ids.lengths
        batch = batch_of(ids, types, a, net.device, last=a.pooling == "last", first_place=0 if prefix is None else shared)
        attention: Attention
        if net.kernels and prefix is None and attended is None and a.head_dim <= 128:
            attention = varlen(lengths, net)
        else:
            attention = Grouped(lengths.tolist(), causal=a.causal, attended=attended, prefix=prefix)
        if output == "logits":
            logits: NDArray[np.float32] = net.logits(batch, attention, torch.from_numpy(lengths).to(net.device)).float().cpu().numpy()
            return logits
        if output == "weights":
            weights: NDArray[np.float32] = net.weights(batch, attention, lengths.tolist()).cpu().numpy()
            return weights
        states = net.states(batch, attention).float().cpu().numpy()
        padded = np.zeros((len(ids), int(lengths.max()), a.hidden), np.float32)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = states
        return padded

    def _prefix(self, ids: NDArray[np.int64]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values of tokens that all sequences begin with."""
        one, kept = Packed.from_rows([ids]), list[tuple[torch.Tensor, torch.Tensor]]()
        a = self._forward.architecture
        batch = batch_of(one, Packed.from_rows([np.zeros_like(ids)]), a, self._forward.device)
        self._forward.states(batch, Grouped([len(ids)], causal=True, kept=kept))
        return kept

    def __repr__(self) -> str:
        kernels = ", Triton kernels" if self._forward.kernels else ""
        return f"TorchRuntime({self.device}, {self.precision}, {self.threads} threads{kernels})"


def capped(cost: Cost, most: int) -> Cost:
    """The cost of calls that take so many tokens at most, at least one."""
    return replace(cost, most=max(1, min(cost.most, most)))


@contextmanager
def calling(ids: Packed, device: str, threads: int) -> Iterator[None]:
    """What is around a call of any network in torch: no gradients; on a CPU `threads` of torch, for the time of the call, which other calls
    wait for, since torch has one number of threads for all; and torch's own errors, out of memory among them, become ModelError."""
    try:
        with torch.inference_mode():
            if device == "cuda":
                yield
                return
            with _THREADS:
                before = torch.get_num_threads()
                torch.set_num_threads(threads)
                try:
                    yield
                finally:
                    torch.set_num_threads(before)
    except RuntimeError as error:
        got = f"torch: {(str(error).splitlines() or [''])[0]}"
        hint = "A smaller budget of tokens a call, or a half precision, needs less memory." if "memory" in got else ""
        raise ModelError(f"the model failed on {len(ids)} inputs of {len(ids.values)} tokens", got=got, hint=hint) from error


def check_ids(ids: Packed, vocabulary: int) -> None:
    """Raises ModelError for a sequence without tokens, and for a token that the embedding lacks: a GPU ends the process for it."""
    if not len(ids) or int(ids.lengths.min()) < 1:
        raise ModelError("runtime torch: ids", got=f"{len(ids)} sequences, one of them empty", expected="sequences of tokens")
    if not 0 <= int(ids.values.min()) <= int(ids.values.max()) < vocabulary:
        expected = f"0 to {vocabulary - 1}: the tokenizer that belongs to the model"
        raise ModelError("runtime torch: ids", got=f"token {int(ids.values.max())}", expected=expected)


def refusal(device: str) -> str | None:
    """Why torch cannot run on a device, or None."""
    if device == "cpu":
        return None
    if device != "cuda":
        return "it knows cpu and cuda"
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def probe(device: str) -> tuple[str | None, str]:
    """(None or why not, detail)"""
    return refusal(device), f"torch {torch.__version__}"


def _kernels_refuse(encoder: Encoder, device: str, dtype: torch.dtype) -> str | None:
    """Why the Triton kernels do not run this network there, or None."""
    from ..backends import NEEDS

    if dtype == torch.float32:
        return "float32: attention is of float16 or bfloat16"
    if encoder.architecture.head_dim > 128:
        return f"heads of {encoder.architecture.head_dim}: at most 128"
    if (reason := NEEDS["triton"]()) is not None:
        return reason
    from rerank_kernels.launch import interpreting

    return None if device == "cuda" or interpreting() else "a CPU, where Triton runs in its interpreter alone (TRITON_INTERPRET=1)"


def common_prefix(ids: Packed) -> int:
    """How many tokens all sequences begin with, if it is worth sharing: at least SHARED, and a token is left to each; else 0."""
    if len(ids) < 2:
        return 0
    most = int(ids.lengths.min()) - 1
    first = ids[0][:most]
    for row in ids:
        differ = np.flatnonzero(row[: len(first)] != first)
        first = first[: differ[0]] if len(differ) else first
    return len(first) if len(first) >= SHARED else 0


def _without(tokens: Packed, n: int) -> Packed:
    return Packed.from_rows([row[n:] for row in tokens])


def batch_of(ids: Packed, types: Packed, a: Architecture, device: torch.device, *, last: bool = False, first_place: int = 0) -> Batch:
    """last: the head reads the last token of each sequence, not its first."""
    rows = (ids.offsets[1:] - 1 if last else ids.offsets[:-1]).copy()
    places = places_of(ids, a, first_place).astype(np.int32)
    arrays = ids.values.astype(np.int32), places, types.values.astype(np.int32), rows
    on_device = [torch.from_numpy(array).to(device) for array in arrays]
    return Batch(on_device[0], on_device[1], on_device[2], on_device[3])


def varlen(lengths: NDArray[np.int64], net: Forward) -> Varlen:
    from rerank_kernels.varlen_attention import block_rows, row_list, work_list

    a = net.architecture
    known = torch.from_numpy(lengths)
    offsets = torch.nn.functional.pad(known.cumsum(0), (1, 0))
    work = work_list(known, block_rows(net.device, a.head_dim)), row_list(known, last=a.pooling == "last")
    return Varlen(offsets.to(net.device), *(part.to(net.device) for part in work))
