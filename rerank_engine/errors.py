"""Every exception that rerank_engine raises on purpose. Each message says what, what it got, what it expected, and how to mend it.

RerankError
├── InputError (ValueError)          an argument or a value handed in is wrong
│   ├── DuplicateIdError             two documents with one id
│   ├── UnknownIdError (KeyError)    an id or a row that the corpus does not hold
│   ├── NonFiniteError               NaN or infinity where a number must be finite
│   └── QueryTooLongError            a query alone fills the model: it is never cut silently
├── FileFormatError                  a file of a corpus, qrels or run is not what its format says
├── ModelError
│   ├── UnknownModelError            no such folder, bundled name or hub name
│   ├── UnsupportedModelError        a model that is understood but cannot do what was asked
│   ├── CorruptModelError            a file of the model does not parse or load
│   └── UnsafeModelError             a file that reaches outside the model's own folder
├── HostedError                      a hosted re-ranker that does not answer, or answers what cannot be right
├── ShardUnavailable                 a shard of a collection that does not answer
├── Cancelled                        the caller took back what it asked for
├── BackendUnavailable               a backend, runtime or device asked for by name cannot run here
└── MissingDependency (ImportError)  an optional package that this feature needs is not installed
"""

from __future__ import annotations

_ABSENT = object()  # None may be what was got


class RerankError(Exception):
    """Base of all of them. `str()` reads: `what: got ...; expected ... hint`."""

    def __init__(self, what: str, *, got: object = _ABSENT, expected: str = "", hint: str = "") -> None:
        parts = []
        if got is not _ABSENT:
            text = got if isinstance(got, str) else repr(got)
            parts.append("got " + (text if len(text) <= 300 else text[:297] + "..."))
        if expected:
            parts.append("expected " + expected)
        message = f"{what}: {'; '.join(parts)}" if parts else what
        if hint:
            message += ("" if message.endswith((".", "!", "?")) else ".") + " " + hint
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:  # KeyError would print the repr
        return self.message


class InputError(RerankError, ValueError):
    """An argument or a value handed in is wrong."""


class DuplicateIdError(InputError):
    """Two documents with one id."""


class UnknownIdError(InputError, KeyError):
    """An id or a row that the corpus does not hold."""


class NonFiniteError(InputError):
    """NaN or infinity where a number must be finite: such a score has no place in an order."""


class QueryTooLongError(InputError):
    """A query alone fills the model. Queries are never cut, since a cut query ranks for another question."""


class FileFormatError(RerankError):
    """A file of a corpus, qrels or run is not what its format says."""


class ModelError(RerankError):
    """Base of what can be wrong with a model."""


class UnknownModelError(ModelError):
    """No such folder, bundled name or hub name."""


class UnsupportedModelError(ModelError):
    """A model that is understood but cannot do what was asked: a missing head, an unknown architecture, several labels."""


class CorruptModelError(ModelError):
    """A file of the model does not parse or load."""


class UnsafeModelError(ModelError):
    """A file of the model reaches outside the model's own folder."""


class HostedError(RerankError):
    """A hosted re-ranker does not answer, or answers what cannot be right. status: of the HTTP response, where there was one."""

    def __init__(self, what: str, *, got: object = _ABSENT, expected: str = "", hint: str = "", status: int | None = None) -> None:
        super().__init__(what, got=got, expected=expected, hint=hint)
        self.status = status


class ShardUnavailable(RerankError):
    """A shard of a collection does not answer, by any of its replicas."""


class Cancelled(RerankError):
    """The caller took back what it asked for (`rr.limited(cancelled=...)`); nothing is returned."""


class BackendUnavailable(RerankError):
    """A backend, runtime or device asked for by name cannot run here. A named one never falls back."""


class MissingDependency(RerankError, ImportError):
    """An optional package that this feature needs is not installed."""
