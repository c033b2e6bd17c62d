"""`Analyzer`: text in, terms out, the same for documents and queries, with a description of itself for the index to keep."""

from __future__ import annotations

import hashlib
import operator
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from ..errors import FileFormatError, InputError
from . import segment
from .languages import ANALYZERS, CODES, NAMED
from .stop_words import STOP_WORDS
from .terms import Terms, snowball_version

SCHEME = 1  # of the whole analysis: counted up when a rule, a class or a list changes what comes out
DEFAULT = "default"

Text: TypeAlias = str | Sequence[str] | Sequence[int]
AnalyzerLike: TypeAlias = "str | Callable[[str], Iterable[str]] | Analyzer"


class Analyzer:
    """`Analyzer(name)(text) -> terms`.

    A language, by name or ISO 639-1 code ("english" or "en", "de", "zh" ...: ANALYZERS lists the names):
        1. normalise: NFKC and case folding ("ﬁ" is "fi", "ß" is "ss", "ς" is "σ"); Turkish with its own pairs of i
        2. segment: UAX #29's words, n-grams for Hangul and scripts without spaces, pictographs (segment.py says where it deviates)
        3. per word: ignorables (soft hyphens, joiners), skin tones, vowel points of Hebrew and Arabic go; ’ is '; digits are ASCII digits;
           English 's, French, Italian, Catalan, Irish elisions (l'), and what follows an apostrophe in Turkish go
        4. stop words go: of the language's list where stop_words.py has one
        5. the language's Snowball stemmer (PyStemmer); none for chinese, japanese, korean, thai, hebrew
    "simple"          1 to 3 alone; 's stays
    "lucene-english"  Lucene's EnglishAnalyzer: UAX #29's words, without 's, lower case, 33 stop words, Porter's first stemmer
    "whitespace"      what stands between spaces, as it is
    "tokens"          the text is a sequence of strings already: passed through
    "ids"             the text is a sequence of token ids (integers >= 0): the terms are their decimal strings
    a callable        any function from a text to terms; it gets the text as it is
    an Analyzer       itself

    stop_words  None, words of your own (they are normalised), or the name of a language with a list; default: the analyzer's own
    stemmer     None or the name of a Snowball algorithm, such as "porter"; default: the analyzer's own

    A text without words has no terms. Threads may share an analyzer; copies and pickles leave its caches behind.
    Raises InputError for an unknown name and for a text that is not of the analyzer's kind, MissingDependency without PyStemmer.
    """

    def __init__(
        self, analyzer: AnalyzerLike = "english", *, stop_words: Iterable[str] | None = DEFAULT, stemmer: str | None = DEFAULT
    ) -> None:
        custom = not (_is_default(stop_words) and _is_default(stemmer))
        if isinstance(analyzer, Analyzer):
            if custom:
                raise InputError("Analyzer", got=f"{analyzer!r} with stop_words or stemmer", expected="a name when those are given")
            self.__dict__.update(analyzer.__dict__)
            return
        self._function = None if isinstance(analyzer, str) else analyzer
        if callable(self._function):
            self.name = getattr(analyzer, "__name__", type(analyzer).__name__)
        elif isinstance(analyzer, str) and CODES.get(analyzer, analyzer) in ANALYZERS:
            self.name = CODES.get(analyzer, analyzer)
        else:
            expected = f"one of {', '.join(ANALYZERS)}, the code of a language, or a function from text to terms"
            raise InputError("analyzer", got=analyzer, expected=expected)
        self._named = NAMED.get(self.name) if self._function is None else None
        if self._named is None:
            if custom:
                raise InputError(
                    "Analyzer", got=f"stop_words or stemmer for {self.name!r}", expected="them for a language or 'simple' alone"
                )
            return
        self.stemmer = self._named.stemmer if _is_default(stemmer) else stemmer
        self.stop_words = self._named.stop_words if _is_default(stop_words) else _listed(stop_words)
        self._terms = Terms(self._named, self._stopped(), self.stemmer)
        self._fold: Callable[[str], str] = {"lucene-english": segment.lower, "turkish": segment.normalise_turkish}.get(
            self.name, segment.normalise
        )
        self._rules = self._named.rules
        self._ascii_words = segment.ASCII_PATTERNS[self._rules].findall

    def __call__(self, text: Text) -> list[str]:
        if self._named is None:
            return self._given(text)
        words, mixed = self._words(text)
        if not mixed:
            return list(filter(None, map(self._terms.__getitem__, words)))
        terms, stopped = list[str](), self._terms.stopped
        for word in words:
            if segment.unspaced().match(word):
                grams = segment.ngrams(word)
                terms += [gram for gram in grams if gram not in stopped] if stopped else grams
            elif term := self._terms[word]:
                terms.append(term)
        return terms

    def _words(self, text: Text) -> tuple[list[str], bool]:
        """The words of a text, and whether runs are among them that are to become n-grams."""
        if not isinstance(text, str):
            raise InputError(f"the analyzer {self.name!r}", got=text, expected="a string", hint="analyzer='tokens' takes lists of tokens.")
        folded = self._fold(text)
        if folded.isascii():
            return self._ascii_words(folded), False
        plain = not segment.special().search(folded)
        return segment.pattern(self._rules, plain).findall(folded), not plain and self._rules == "words"

    def _given(self, text: Text) -> list[str]:
        if self._function is not None:
            return list(self._function(text))  # type: ignore[arg-type]  # its own business
        if self.name == "whitespace" and isinstance(text, str):
            return text.split()
        if isinstance(text, (str, bytes)) or self.name == "whitespace" or not hasattr(text, "__iter__"):
            raise InputError(f"the analyzer {self.name!r}", got=text, expected=f"a sequence of {self.name}, not a text")
        items: list[Any] = text.tolist() if hasattr(text, "tolist") else list(text)
        if self.name == "tokens":
            for item in items:
                if not isinstance(item, str):
                    raise InputError("a token", got=item, expected="a string", hint="analyzer='ids' takes integers.")
            return items
        try:
            ids = [operator.index(item) for item in items]
        except TypeError as error:
            raise InputError("token ids", got=items, expected="integers >= 0", hint="analyzer='tokens' takes strings.") from error
        if ids and min(ids) < 0:
            raise InputError("a token id", got=min(ids), expected="an integer >= 0")
        return list(map(str, ids))

    def _stopped(self) -> frozenset[str]:
        if self.stop_words is None:
            return frozenset()
        return frozenset(STOP_WORDS[self.stop_words].split() if isinstance(self.stop_words, str) else self.stop_words)

    @property
    def config(self) -> dict[str, Any]:
        """What an index keeps of its analyzer: plain JSON data from which `from_config` makes it again. New dictionary each time.

        A function is kept by its name "module.qualname" alone. Lambdas and functions inside of functions all look alike there: give one
        that must be told from others a name of its own.
        """
        config: dict[str, Any] = {"scheme": SCHEME, "analyzer": self.name}
        if self._function is not None:
            return {"scheme": SCHEME, "analyzer": "callable", "callable": _qualified(self._function)}
        if self._named is not None:
            words = "\n".join(sorted(self._stopped()))
            config |= {
                "stemmer": self.stemmer,
                "snowball": snowball_version(self.stemmer),
                "stop_words": self.stop_words if self.stop_words is None or isinstance(self.stop_words, str) else list(self.stop_words),
                "stop_words_sha256": hashlib.sha256(words.encode()).hexdigest() if words else None,
                "unicode": unicodedata.unidata_version,
            }
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any], analyzer: AnalyzerLike | None = None) -> Analyzer:
        """The analyzer that an index was built with, or `analyzer` once it is known to be the same.

        Raises what `check` raises, and InputError when the index was built with a function and none is given.
        """
        name = config.get("analyzer") if isinstance(config, Mapping) else None
        if not isinstance(name, str):
            raise FileFormatError("the analyzer of an index", got=config, expected="a dictionary with scheme, analyzer and its settings")
        if analyzer is None and name == "callable":
            hint = "Pass that function as analyzer=."
            raise InputError(
                "the analyzer of an index",
                got="none",
                expected=f"the function {config.get('callable')!r}, with which it was built",
                hint=hint,
            )
        if analyzer is None:
            settings = {key: config[key] for key in ("stop_words", "stemmer") if key in config}
            _check_scheme(config)
            analyzer = cls(name, **settings)
        made = cls(analyzer)
        made.check(config)
        return made

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises InputError when `config`, kept by an index, is of an analysis that gives other terms than this one.

        All of it must be equal but for the patch version of Snowball and the version of Unicode: both standards keep what they have once
        said of a character or a word in such releases, and newer ones add characters.
        """
        _check_scheme(config)
        mine = self.config
        for key in ("analyzer", "callable", "stemmer", "stop_words_sha256", "snowball"):
            ours, theirs = mine.get(key), config.get(key)
            if key == "snowball" and isinstance(ours, str) and isinstance(theirs, str):
                ours, theirs = (".".join(version.split(".")[:2]) for version in (ours, theirs))
            if ours != theirs:
                what, hint = f"{key} of the analyzer", "Leave the analyzer out to take the index's own, or build the index again."
                if key == "snowball":
                    what, hint = "the version of PyStemmer", f"Install PyStemmer=={theirs}.*, or build the index again."
                raise InputError(what, got=ours, expected=f"{theirs!r}, with which the index was built", hint=hint)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._named is None:
            return _restore, (self._function or self.name, {})
        return _restore, (self.name, {"stop_words": self.stop_words, "stemmer": self.stemmer})

    def __repr__(self) -> str:
        if self._named is None:
            return f"Analyzer({self.name})"
        changed = "" if self.stemmer == self._named.stemmer else f", stemmer={self.stemmer}"
        if self.stop_words != self._named.stop_words:
            changed += f", stop_words={self.stop_words if isinstance(self.stop_words, str) else len(self.stop_words or ())}"
        return f"Analyzer({self.name}{changed})"


def _restore(analyzer: AnalyzerLike, settings: dict[str, Any]) -> Analyzer:
    return Analyzer(analyzer, **settings)


def _is_default(setting: object) -> bool:
    return isinstance(setting, str) and setting == DEFAULT


def _listed(stop_words: Iterable[str] | None) -> str | tuple[str, ...] | None:
    """None, the name of a list, or normalised words in order."""
    if isinstance(stop_words, str):
        name = CODES.get(stop_words, stop_words)
        if name not in STOP_WORDS:
            raise InputError("stop_words", got=stop_words, expected=f"None, a list of words, or one of {', '.join(STOP_WORDS)}")
        return name
    if stop_words is None:
        return None
    words = list(stop_words)
    if not all(isinstance(word, str) for word in words):
        raise InputError("stop_words", got=words, expected="strings")
    return tuple(sorted({segment.clean(segment.normalise(word)) for word in words})) or None


def _qualified(function: Callable[..., Any]) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None) or getattr(named, "__objclass__", type(named)).__module__  # the latter for str.split
    return f"{module}.{named.__qualname__}"


def _check_scheme(config: Mapping[str, Any]) -> None:
    if config.get("scheme") != SCHEME:
        hint = "Build the index again with this version of rerank_engine, or open it with the version that built it."
        raise InputError("the analysis of an index", got=f"scheme {config.get('scheme')!r}", expected=f"scheme {SCHEME}", hint=hint)
