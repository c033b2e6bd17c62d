"""The feature matrix: what learning to rank is trained on and evaluated with, and its files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..corpus import read_lines, read_text
from ..errors import FileFormatError, InputError
from ..evaluation.formulas import padded
from ..evaluation.measures import Measure, evaluate_gains, measure_of, nDCG
from ..ops import checks

MEASURE = nDCG(gain="exponential") @ 10  # what LambdaMART is trained for: gains of 2^rel - 1
TEXTS = (".svm", ".svmlight", ".txt")
MOST_FEATURES, MOST_CELLS, LARGEST = 1 << 20, 1 << 31, float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True, eq=False)
class FeatureMatrix:
    """Rows of features, query by query.

    names: of the f features, each once. values float32 [n, f]; NaN: not known. offsets int64 [q + 1]: query i has the rows offsets[i] to
    offsets[i + 1] - 1. labels: integers [n], relevance from 0, or None where nothing is judged. query_ids [q] and doc_ids [n]: texts, row
    numbers where they are left out. Raises InputError for what does not fit together.
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    query_ids: tuple[str, ...] = ()
    doc_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "names", require_names("FeatureMatrix: names", self.names))
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self.values, np.float32)
        infinite = np.isinf(values)
        if infinite.any() and not np.isinf(np.asarray(self.values, np.float64)[infinite]).all():
            raise InputError("FeatureMatrix: values", got="a value beyond float32", expected=f"numbers up to {LARGEST:.3g}, or infinity")
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise InputError("FeatureMatrix: values", got=f"shape {list(values.shape)}", expected=f"[n, {len(self.names)}], as names has")
        offsets, n = checks.integers("FeatureMatrix: offsets", self.offsets), len(values)
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
            raise InputError("FeatureMatrix: offsets", got=f"{len(offsets)} of them", expected=f"a rise from 0 to the {n} rows")
        if self.labels is not None:
            labels = checks.integers("FeatureMatrix: labels", self.labels)
            if labels.shape != (n,) or (n and labels.min() < 0):
                raise InputError("FeatureMatrix: labels", got=f"{len(labels)} of them, or below 0", expected=f"[{n}], from 0")
            put(self, "labels", labels)
        for name, many in (("query_ids", len(offsets) - 1), ("doc_ids", n)):
            ids = tuple(map(str, getattr(self, name))) or tuple(map(str, range(many)))
            if len(ids) != many:
                raise InputError(f"FeatureMatrix: {name}", got=f"{len(ids)} of them", expected=f"{many}")
            put(self, name, ids)
        put(self, "values", values)
        put(self, "offsets", offsets)

    def __len__(self) -> int:
        """Queries."""
        return len(self.offsets) - 1

    def column(self, name: str) -> NDArray[np.float32]:
        """float32 [n]. Raises InputError for a name that it lacks."""
        if name not in self.names:
            raise InputError("FeatureMatrix: column", got=name, expected="one of " + ", ".join(self.names))
        return self.values[:, self.names.index(name)]

    def select(self, names: Sequence[str]) -> FeatureMatrix:
        """The same rows with these features, in this order."""
        columns = [self.column(name) for name in names]
        return replace(self, names=tuple(names), values=np.stack(columns, axis=1) if columns else self.values[:, :0])

    def take(self, queries: ArrayLike) -> FeatureMatrix:
        """The rows of these queries (their places, from 0), in this order: a split into training and validation. Raises InputError."""
        at = checks.integers("FeatureMatrix.take: queries", queries)
        if len(at) and not 0 <= at.min() <= at.max() < len(self):
            got, hint = f"places from {at.min()} to {at.max()}", "np.flatnonzero makes places of a mask."
            raise InputError("FeatureMatrix.take: queries", got=got, expected=f"places from 0 to {len(self) - 1}", hint=hint)
        rows = [np.arange(self.offsets[q], self.offsets[q + 1]) for q in at.tolist()]
        picked = np.concatenate(rows) if rows else np.empty(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        labels = None if self.labels is None else self.labels[picked]
        ids = tuple(self.query_ids[q] for q in at.tolist()), tuple(self.doc_ids[row] for row in picked.tolist())
        return FeatureMatrix(self.names, self.values[picked], offsets, labels, *ids)

    def judged(self, what: str) -> NDArray[np.int64]:
        """The labels. Raises InputError where there are none."""
        if self.labels is None or not self.labels.any():
            raise InputError(f"{what}: labels", got="none above 0", expected="relevance for the rows", hint="Pass qrels to feature_matrix.")
        return self.labels

    def evaluate(self, scores: ArrayLike, measure: Measure | str = MEASURE) -> float:
        """The mean over the queries that have a relevant row; by default nDCG@10 with gains of 2^rel - 1. Ties stand in the rows' order.

        Relevance counts from 1, and what the matrix does not hold does not count. scores [n]. Raises InputError.
        """
        labels, values = self.judged("evaluate"), np.asarray(scores, np.float64)
        if values.shape != labels.shape or np.isnan(values).any():
            raise InputError(
                "evaluate: scores", got=f"shape {list(values.shape)}, or NaN", expected=f"[{len(labels)}], a score for each row"
            )
        owner = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        ranked, chosen = labels[np.lexsort((-values, owner))], measure_of(measure)
        spans = [(a, b) for a, b in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist()) if labels[a:b].any()]
        [found] = evaluate_gains(padded([ranked[a:b] for a, b in spans]), padded([labels[a:b] for a, b in spans]), [chosen]).values()
        return float(found.mean())

    def save(self, path: str | Path) -> None:
        """Writes .npz (all of it, exactly), .tsv (for eyes and tables: query, document, label, features) or .svm, .svmlight, .txt
        (`label qid:1 1:0.5 ... # document`: features count from 1, zeros are left out, NaN is `nan`; without labels every label is 0).
        The ending says which."""
        ending = Path(path).suffix
        try:
            if ending == ".npz":
                arrays: dict[str, Any] = {name: np.array(getattr(self, name), np.str_) for name in ("names", "query_ids", "doc_ids")}
                arrays |= {"values": self.values, "offsets": self.offsets, **({} if self.labels is None else {"labels": self.labels})}
                with open(path, "wb") as file:
                    np.savez_compressed(file, **arrays)
            elif ending in (".tsv", *TEXTS):
                with open(path, "w", encoding="utf-8", newline="\n") as text:
                    text.writelines(self._table() if ending == ".tsv" else self._svmlight())
            else:
                raise InputError("FeatureMatrix.save", got=f"the ending '{ending}'", expected=".npz, .tsv, .svm, .svmlight or .txt")
        except OSError as error:
            raise InputError(f"cannot write {path}", got=str(error.strerror), expected="a file in a folder that can be written") from error

    def _rows(self) -> Any:
        """(query's place, document's id, label or None, values) row by row."""
        owner = np.repeat(np.arange(len(self)), np.diff(self.offsets)).tolist()
        labels = [None] * len(owner) if self.labels is None else self.labels.tolist()
        return zip(owner, self.doc_ids, labels, self.values)

    def _table(self) -> Any:
        yield "\t".join(["query", "document", "label", *self.names]) + "\n"
        for query, document, label, values in self._rows():
            cells = [self.query_ids[query], document, "" if label is None else str(label), *(str(v) for v in values)]
            yield "\t".join(" ".join(cell.split()) for cell in cells) + "\n"

    def _svmlight(self) -> Any:
        yield "# " + " ".join(f"{i}:{'_'.join(name.split())}" for i, name in enumerate(self.names, 1)) + "\n"
        for query, document, label, values in self._rows():
            entries = " ".join(f"{i + 1}:{values[i]!s}" for i in np.flatnonzero(values).tolist())  # NaN is not 0
            yield f"{label or 0} qid:{query + 1} {entries} # {' '.join(document.split())}\n"

    @classmethod
    def load(cls, path: str | Path) -> FeatureMatrix:
        """A .npz file as `save` writes it; nothing in it is run. Raises FileFormatError."""
        if Path(path).suffix in TEXTS:
            hint = "FeatureMatrix.from_svmlight reads lines of `label qid:1 1:0.5`."
            raise FileFormatError(str(path), got="the ending of a text", expected="the .npz of a FeatureMatrix", hint=hint)
        try:
            with np.load(path, allow_pickle=False) as file:
                texts = [tuple(file[name].tolist()) for name in ("names", "query_ids", "doc_ids")]
                labels = file.get("labels")
                return cls(texts[0], file["values"], file["offsets"], labels, *texts[1:])
        except (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, zipfile.BadZipFile) as error:
            raise FileFormatError(str(path), got=str(error), expected="the .npz of a FeatureMatrix") from error
        except Exception as error:  # zlib.error, and what numpy's reader of headers raises
            raise FileFormatError(str(path), got=f"{type(error).__name__}: {error}", expected="the .npz of a FeatureMatrix") from error

    @classmethod
    def from_svmlight(
        cls, path: str | Path, *, groups: str | Path | None = None, names: Sequence[str] | None = None, first: int = 1
    ) -> FeatureMatrix:
        """Lines `label [qid:1] 1:0.5 ... [# document]`, gzip or not; absent features are 0.

        groups: a file with the number of rows of each query, as LightGBM's .query; without it lines have qid, those of a query together.
        names: of the features, f1, f2, ... by default. first: the number of the first feature; LightGBM's own files begin with 0.
        Raises FileFormatError with the line.
        """
        rows = [
            _svmlight_line(line, f"{path}, line {i}", first) for i, line in enumerate(read_lines(path), 1) if line.split("#")[0].strip()
        ]
        width = max([max(at, default=-1) + 1 for _, _, at, _, _ in rows], default=0)
        many = width if names is None else len(names)
        if width > many or many > MOST_FEATURES or len(rows) * many > MOST_CELLS:  # before anything of that size is made
            expected = f"one of {MOST_FEATURES if names is None else many} features, and {MOST_CELLS} values at most"
            raise FileFormatError(str(path), got=f"feature {width - 1 + first} and {len(rows)} rows", expected=expected)
        known = tuple(f"f{i + first}" for i in range(width)) if names is None else tuple(names)
        values = np.zeros((len(rows), len(known)), np.float32)
        for i, (_, _, at, numbers, _) in enumerate(rows):
            values[i, at] = numbers
        offsets, ids = _groups(str(path), [qid for _, qid, *_ in rows], groups)
        documents = tuple(name or str(i) for i, (*_, name) in enumerate(rows))
        return cls(known, values, offsets, np.array([label for label, *_ in rows], np.int64), ids, documents)

    def __repr__(self) -> str:
        return f"FeatureMatrix({len(self)} queries, {len(self.values)} rows, {len(self.names)} features)"


def require_names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Texts, each once and none empty. Raises InputError."""
    told = tuple(names) if not isinstance(names, str) else (names,)
    if not all(isinstance(name, str) and name for name in told) or len(set(told)) != len(told):
        twice = sorted({name for name in told if told.count(name) > 1}, key=str)
        raise InputError(what, got=f"{twice[0]!r} twice" if twice else "an empty name", expected="names, each once")
    return told


def _svmlight_line(line: str, where: str, first: int) -> tuple[int, str | None, list[int], list[float], str]:
    """(label, qid, places, values, document)."""
    body, _, comment = line.partition("#")
    qid, places, values = None, list[int](), list[float]()
    try:
        label, *entries = body.split()
        for entry in entries:
            key, value = entry.split(":")
            if key == "qid":
                qid = value
            else:
                places.append(int(key) - first)
                values.append(float(value))
        grade = float(label)
        if grade != int(grade) or grade < 0 or min(places, default=0) < 0 or len(set(places)) != len(places):
            raise ValueError(f"label {label}, or features twice or before the first")
        if grade >= 1 << 53 or any(LARGEST < abs(value) < math.inf for value in values):
            raise ValueError(f"label {label}, or a value beyond float32")
    except (ValueError, OverflowError) as error:
        raise FileFormatError(where, got=str(error), expected="label [qid:1] 1:0.5 ..., relevance a whole number from 0") from error
    return int(grade), qid, places, values, comment.strip()


def _groups(path: str, qids: list[str | None], groups: str | Path | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if groups is not None:
        try:
            sizes = [int(size) for size in read_text(groups).split()]
        except ValueError as error:
            raise FileFormatError(str(groups), got=str(error), expected="the number of rows of each query") from error
        if min(sizes, default=0) < 0 or sum(sizes) != len(qids):  # whole numbers of any size: the sum cannot wrap round
            got = f"{sum(sizes)} rows in all" if sum(sizes) < 1 << 63 else "more rows than 2^63"
            raise FileFormatError(str(groups), got=got, expected=f"{len(qids)}, as {path} has")
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), ()
    if None in qids:
        raise FileFormatError(path, got="a line without qid", expected="qid:NUMBER in every line", hint="Or pass groups=.")
    starts = [i for i, qid in enumerate(qids) if i == 0 or qid != qids[i - 1]]
    ids = tuple(str(qids[i]) for i in starts)
    if len(set(ids)) != len(ids):
        raise FileFormatError(path, got="a query in two places", expected="the lines of a query together")
    return np.array([*starts, len(qids)], np.int64), ids


Qrels = Mapping[str, Mapping[str, int]]
