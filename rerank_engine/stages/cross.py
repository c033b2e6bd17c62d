"""Cross-encoders: query and document read together by one model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ..core import LOWEST, WAVE, Query, Ranking, Scorer, Scores
from ..corpus import Corpus
from ..errors import InputError, UnsupportedModelError
from ..limits import limits, pieces
from ..ops.checks import count
from ..progress import Progress
from ..runtimes.base import Runtime, check_finite, describe, weights_of
from ..runtimes.batching import run_until
from ..runtimes.pairs import PairTokenizer, PairTokens
from ..runtimes.prompts import PromptTokenizer
from ..runtimes.t5_prompts import TemplateTokenizer
from ..runtimes.tokenize import Tokenizer, Tokens
from .calibration import Calibration, labelled_pairs, require_labels
from .calibration import sigmoid as sigmoid
from .passages import aggregate_of, aggregated, first_passages, require_policy
from .score_cache import ScoreCache, fingerprint_of, keys_of

CALIBRATION = "calibration.json"  # beside the model


@dataclass(frozen=True, eq=False)
class _Read:
    """What was read of n pairs. values float32 [n], -inf where scored is False; tokens: how many the network was given for each."""

    values: NDArray[np.float32]
    scored: NDArray[np.bool_]
    dropped: NDArray[np.int32]
    chunks: NDArray[np.int32]
    tokens: NDArray[np.int64]
    cached: NDArray[np.int64]  # sequences of each whose logits the cache knew


@final
class CrossEncoder(Scorer):
    """score(query, document) = the model's logit, float32; higher is better, of no fixed range. `sigmoid` makes it a probability.

    label: which logit to take, for a model with several. The query is never cut. long: what happens to a document that does not fit

        "truncate"  it loses its end; the column `truncated_tokens` says how much of it
        "error"     InputError
        "chunk"     it is read in passages of `window` tokens that begin `stride` tokens apart (see stages.passages), and `aggregate` joins
                    their logits: "max", "first" (only the first is read), "mean", or "top3-mean", of the 3 best, 3 being any number.
                    The column `chunks` says how many were read

    cache: a ScoreCache, or the bytes of one, 0 for none: repeats of a pair are then not run again. Where `rr.limited` sets a deadline the
    column `scored` says what was read in time: documents are read in waves from the list's top, and the rest has the score -inf. The
    facts of its step: {"tokens": those of the sequences read, equal ones counted each, with a cache also "cached": sequences it knew}.
    Made by `rr.load`. folder: the model's, where `calibration` is found. pairs: what makes tokens of pairs, by default the
    tokenizer's template.
    """

    timely = True

    def __init__(
        self,
        runtime: Runtime,
        tokenizer: Tokenizer,
        *,
        name: str,
        label: int | None = None,
        long: str = "truncate",
        window: int | None = None,
        stride: int | None = None,
        aggregate: str = "max",
        cache: int | ScoreCache = 0,
        folder: Path | None = None,
        pairs: PairTokenizer | PromptTokenizer | TemplateTokenizer | None = None,
    ) -> None:
        if label is not None and (isinstance(label, bool) or not isinstance(label, int) or label < 0):
            raise InputError("label", got=label, expected="the number of a label, from 0")
        require_policy(long, window, stride, aggregate)
        self.runtime, self.tokenizer, self.model, self.label = runtime, tokenizer, name, label
        self.long, self.window, self.stride, self.aggregate, self.folder = long, window, stride, aggregate, folder
        if "logits" not in runtime.outputs:
            hint = "Its classification head is missing: export it for the task text-classification."
            raise UnsupportedModelError(f"model '{name}': outputs", got=", ".join(runtime.outputs), expected="logits", hint=hint)
        self.cache = cache if isinstance(cache, ScoreCache) else None if cache == 0 and not isinstance(cache, bool) else ScoreCache(cache)
        if self.cache is not None:
            fingerprint_of(runtime, name)
        self.backend = describe(runtime)
        self._pairs = PairTokenizer(tokenizer) if pairs is None else pairs
        if long == "chunk":
            self._require_passages()

    def predict(self, pairs: Sequence[tuple[str, str]], *, progress: Progress | None = None) -> Scores:
        """Logits float32 [n] of (query, document) pairs, in their order, with the column truncated_tokens int32 [n] and those that
        the options and limits above bring.

        A blank document has nothing to compare: it is not run and gets the lowest float32 (models rank it anywhere, even first). Raises
        InputError (an empty query, not strings), QueryTooLongError, NonFiniteError (NaN logits), UnsupportedModelError (several labels
        and no `label`), Cancelled.
        """
        read = self._read(pairs, None, progress)
        return self._scores(read, slice(None))

    def score(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[Scores]:
        sizes, parts = [len(ranking) for ranking in rankings], list[_Read]()
        places = np.concatenate([np.empty(0, np.int64), *map(np.arange, sizes)])
        order, wave = list[NDArray[np.int64]](), max(1, WAVE // max(len(sizes), 1))
        for part in pieces(max(sizes, default=0), wave):  # which become tokens together
            pairs = _pairs_of(queries, [ranking._pick(part) for ranking in rankings])
            order.append(np.flatnonzero((places >= part.start) & (places < part.stop)))
            # Calls of one pair have nothing to gain from equal lengths.
            ahead = places[order[-1]] // (1 if self.runtime.batch_sensitive else wave)
            parts.append(self._read(list(chain.from_iterable(pairs)), ahead, None))
        read, ends = _whole(parts, order, len(places)), np.cumsum([0, *sizes]).tolist()
        return [self._scores(read, slice(a, b)) for a, b in pairwise(ends)]

    def count_tokens(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[NDArray[np.int64]]:
        """What the network would be given for each document of each ranking, int64 [n]; nothing is run."""
        return [tokens for tokens, _ in self.counted(queries, rankings)]

    def counted(self, queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[tuple[NDArray[np.int64], NDArray[np.int32]]]:
        """(`count_tokens`, the tokens int32 [n] that would be cut off) for each ranking; nothing is run."""
        out = []
        for row in _pairs_of(queries, rankings):
            full, dropped = np.array([bool(document.strip()) for _, document in row], bool), np.zeros(len(row), np.int32)
            if full.any():
                made = self._encode(row)
                full = full * np.bincount(made.owner, weights=made.tokens.ids.lengths, minlength=len(row))
                dropped = made.dropped
            out.append((full.astype(np.int64), dropped))
        return out

    def shortened(self, tokens: int) -> CrossEncoder:
        """The same model reading only the first `tokens` tokens of each document: a cheap scorer for a Cascade."""
        self._require_passages()
        other = copy.copy(self)
        other.long, other.window, other.stride, other.aggregate = "chunk", count("shortened: tokens", tokens), tokens, "first"
        other.folder = None  # its logits are others: the calibration beside the model is not for them
        other.__dict__.pop("calibration", None)
        return other

    @cached_property
    def calibration(self) -> Calibration | None:
        """What `calibrate(save=True)` left beside the model, None without. Raises FileFormatError, InputError (another model's)."""
        path = None if self.folder is None else self.folder / CALIBRATION
        if path is None or not path.is_file():
            return None
        found = Calibration.load(path)
        own = weights_of(self.runtime)
        if (found.fingerprint and own and found.fingerprint != own) or found.label != (self.label or 0):
            got = f"one of another network or label ({path})"
            raise InputError(f"model '{self.model}': calibration", got=got, expected="its own", hint="Call calibrate again.")
        return found

    def calibrate(
        self,
        queries: Sequence[Query],
        corpus: Corpus,
        qrels: Mapping[str, Mapping[str, int]],
        *,
        candidates: Sequence[Ranking] | None = None,
        method: str = "isotonic",
        rel: int = 1,
        save: bool | str | Path = False,
    ) -> Calibration:
        """Fits logit -> probability of relevance >= rel, and keeps it as `calibration`. The order of documents never changes.

        The pairs: the judged documents that the corpus holds or, with candidates (a ranking a query), those, what is not judged counting
        as not relevant: a probability means the share of relevant ones among such candidates. method: "isotonic" (a few hundred pairs
        or more) or "platt". save: True writes it beside the model, a path there.
        Raises InputError, MissingDependency (scikit-learn) and what `predict` does.
        """
        chosen = judged_rankings(queries, corpus, qrels) if candidates is None else candidates
        pairs, relevant = labelled_pairs(queries, qrels, chosen, count("calibrate: rel", rel))
        if save is True and self.folder is None:
            raise InputError("calibrate: save", got="True for a model without a folder", expected="a path")
        require_labels(relevant, method)
        read = self._read(pairs, None, None)
        made = Calibration.fit(
            read.values[read.scored],
            relevant[read.scored],
            method=method,
            fingerprint=weights_of(self.runtime),
            label=self.label or 0,
        )
        if save is not False:
            made.save(self.folder / CALIBRATION if save is True and self.folder is not None else str(save))
        self.__dict__["calibration"] = made
        return made

    def _require_passages(self) -> None:
        if not self._pairs.concatenates:
            hint = "Its pairs are more than two texts joined: use 'truncate' or 'error'."
            raise UnsupportedModelError(f"model '{self.model}': long='chunk'", got=repr(self._pairs), expected="a template", hint=hint)

    def _encode(self, pairs: Sequence[tuple[str, str]]) -> PairTokens:
        if self.long == "chunk" and self.aggregate == "first":
            whole = self._pairs.encode(pairs)  # without a window the first passage is what fits
            if self.window is None:
                return whole
            return first_passages(whole, self._pairs.encode(pairs, long="chunk", window=self.window, stride=self.window))
        return self._pairs.encode(pairs, long=self.long, window=self.window, stride=self.stride)

    def _read(self, pairs: Sequence[tuple[str, str]], waves: NDArray[np.int64] | None, progress: Progress | None) -> _Read:
        """waves: int64 [n], which pairs go before which when time is short."""
        require_texts("CrossEncoder.predict", pairs, ("query", "document"))
        n, full = len(pairs), np.array([bool(document.strip()) for _, document in pairs], bool)
        if not full.any():
            none = np.zeros(n, np.int32)
            return _Read(np.full(n, LOWEST, np.float32), np.ones(n, bool), none, none, none.astype(np.int64), none.astype(np.int64))
        made = self._encode(pairs)  # the blank ones too: so its errors call a pair by its number
        rows = np.flatnonzero(full[made.owner])
        tokens, owner = made.tokens, made.owner[rows]
        if len(rows) < len(made.owner):
            tokens = Tokens(tokens.ids.take(rows), tokens.types.take(rows), tokens.dropped[rows])
        logits, done, known = self._logits(tokens, None if waves is None else waves[owner], progress)
        values, scored = aggregated(logits, done, owner, n, aggregate_of(self.aggregate))
        values[owner[done & ~np.isfinite(logits)]] = np.nan
        check_finite(np.where(scored & full, values, 0), self.model)
        values[~full], values[~scored] = LOWEST, -np.inf
        read = np.bincount(owner, weights=tokens.ids.lengths * (done & ~known), minlength=n).astype(np.int64)
        cached = np.bincount(owner, weights=known, minlength=n).astype(np.int64)
        return _Read(values, scored, made.dropped, made.chunks * full, read, cached)

    def _logits(
        self, tokens: Tokens, waves: NDArray[np.int64] | None, progress: Progress | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """(logits float32 [m], done bool [m], known bool [m]: by the cache)"""
        if self.cache is None:
            logits, done = run_until(self.runtime, tokens, "logits", self._column, priority=waves, progress=progress)
            return logits, done, np.zeros(len(logits), bool)
        prompt = getattr(self._pairs, "prompt", "")  # two may differ in nothing but the tokens that answer
        keys = keys_of(fingerprint_of(self.runtime, self.model), f"{self.backend} {self.label or 0} {prompt!r}", tokens)
        logits = self.cache.find(keys)
        done = known = ~np.isnan(logits)
        if len(new := np.flatnonzero(~known)):
            rest = Tokens(tokens.ids.take(new), tokens.types.take(new), tokens.dropped[new])
            ahead = None if waves is None else waves[new]
            logits[new], ran = run_until(self.runtime, rest, "logits", self._column, priority=ahead, progress=progress)
            done = known.copy()
            done[new] = ran
            self.cache.put([keys[i] for i in new[ran]], logits[new[ran]])
        return logits, done, known

    def _scores(self, read: _Read, part: slice) -> Scores:
        columns: dict[str, NDArray[Any]] = {"truncated_tokens": read.dropped[part]}
        if self.long == "chunk":
            columns["chunks"] = read.chunks[part]
        if limits().deadline is not None:
            columns["scored"] = read.scored[part]
        facts = {"tokens": int(read.tokens[part].sum())}
        if self.cache is not None:
            facts["cached"] = int(read.cached[part].sum())
        return Scores(read.values[part], "logit", columns, facts)

    def _column(self, logits: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """The label's column of logits [b, labels], or [b] of a single one."""
        if logits.ndim > 2:
            got = f"logits {list(logits.shape)}, one per token"
            raise UnsupportedModelError(f"model '{self.model}'", got=got, expected="logits per pair: [pairs, labels]")
        rows = logits.reshape(len(lengths), -1)
        n = rows.shape[1]
        if self.label is None and n != 1:
            hint = "Pass label= to rr.load: the number of the label that means relevant."
            raise UnsupportedModelError(f"model '{self.model}'", got=f"{n} labels", expected="one, a score", hint=hint)
        if self.label is not None and self.label >= n:
            raise InputError("label", got=self.label, expected=f"a label from 0 to {n - 1}")
        return np.ascontiguousarray(rows[:, self.label or 0])

    def __repr__(self) -> str:
        how = f", {self.aggregate} of {self.window or 'full'} tokens" if self.long == "chunk" else ""
        return f"CrossEncoder({self.model}, {self.backend}{how})"


def _whole(parts: Sequence[_Read], order: Sequence[NDArray[np.int64]], n: int) -> _Read:
    """What was read of n pairs, part by part; order: which ones each part is of."""
    if len(parts) == 1 and len(order[0]) == n:
        return parts[0]
    small, wide = np.zeros(n, np.int32), np.zeros(n, np.int64)
    whole = _Read(np.full(n, -np.inf, np.float32), np.zeros(n, bool), small, small.copy(), wide, wide.copy())
    for part, at in zip(parts, order):
        for name in _Read.__dataclass_fields__:
            getattr(whole, name)[at] = getattr(part, name)
    return whole


def judged_rankings(queries: Sequence[Query], corpus: Corpus, qrels: Mapping[str, Mapping[str, int]]) -> list[Ranking]:
    """Of each query the judged documents that the corpus holds."""
    judged = [qrels.get(query.id or "", {}) if isinstance(query, Query) else {} for query in queries]
    return [Ranking.in_order(corpus, np.array([corpus.row(d) for d in row if d in corpus], np.int64)) for row in judged]


def _pairs_of(queries: Sequence[Query], rankings: Sequence[Ranking]) -> list[list[tuple[str, str]]]:
    return [[(query.text, text) for text in ranking.corpus.texts(ranking.ids)] for query, ranking in zip(queries, rankings)]


def require_texts(what: str, rows: Sequence[tuple[str, ...]], fields: tuple[str, ...]) -> None:
    """Raises InputError unless each row is a tuple of that many strings, of which the first, the query, is not blank."""
    kind, names = "pair" if len(fields) == 2 else "triple", ", ".join(fields)
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        raise InputError(f"{what}: {kind}s", got=type(rows).__name__, expected=f"a sequence of ({names})")
    for i, row in enumerate(rows):
        if not isinstance(row, tuple) or len(row) != len(fields) or not all(isinstance(text, str) for text in row):
            expected = f"a tuple of {'two' if len(fields) == 2 else 'three'} strings, ({names})"
            raise InputError(f"{what}: {kind} {i}", got=row, expected=expected)
        if not row[0].strip():
            raise InputError(f"{what}: query of {kind} {i}", got="an empty text", expected="a query to compare with")
