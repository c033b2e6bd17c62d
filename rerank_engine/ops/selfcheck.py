"""Whether the kernels of each instruction set compute on this processor what the references say: a few milliseconds, for `backends`."""

from __future__ import annotations

import numpy as np

from ..codec import ResidualCodec, ResidualTokens
from ..packed import Packed
from .maxsim import maxsim, quantize_int8
from .residual import residual_maxsim

ROOM = {"float32": 1e-5, "float16": 1e-5, "int8": 1e-3, "decode": 2e-5, "lookup16": 2e-3, "lookup8": 2e-2, "dot8": 2e-2}


def self_check() -> dict[str, str | None]:
    """instruction set -> None, or what is wrong, for all that are compiled in and present. Late interaction in every storage and path."""
    from .. import _native

    rng = np.random.default_rng(0)
    query, tokens = (rng.normal(size=(n, 64)) for n in (37, 150))
    query, tokens = ((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (query, tokens))
    documents = Packed(tokens, np.array([0, 1, 20, 20, 150]))
    spans, weights, none = (documents.offsets[:-1].copy(), documents.lengths), np.ones(37, np.float32), np.empty(0, np.float32)
    bytes_, scales = quantize_int8(tokens)
    stored = {"float32": (tokens, none), "float16": (tokens.astype(np.float16), none), "int8": (bytes_, scales)}
    coded = ResidualTokens.encode(documents, ResidualCodec.train(tokens, 4, 8, iterations=1, backend="numpy"))
    codec = coded.codec
    given = codec.centroids, codec.bucket_weights, codec.radius, coded.centroid_ids, coded.residuals, coded.inverse_norms
    want = {
        name: maxsim(query, Packed(v, documents.offsets), scales=s if len(s) else None, backend="reference")
        for name, (v, s) in stored.items()
    }
    want["codes"] = residual_maxsim(query, coded, backend="reference")
    out = dict[str, str | None]()
    for isa in _native.usable_isas():
        found = {name: _native.maxsim(query, weights, v, s, *spans, 1, isa)[0] for name, (v, s) in stored.items()}
        for path in ("decode", "lookup16", "lookup8", *(["dot8"] if isa.endswith("vnni") else [])):
            found[path] = _native.residual_maxsim(query, weights, *given, *spans, None, path, 1, isa)[0]
        live = documents.lengths > 0
        errors = {name: float(np.abs(scores[live] - want.get(name, want["codes"])[live]).max()) for name, scores in found.items()}
        wrong = [f"{name} is off by {error:.2g}" for name, error in errors.items() if not error <= ROOM[name]]
        out[isa] = ", ".join(wrong) or None
    return out
