"""Text analysis for lexical search: text in, terms out."""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import InputError, MissingDependency

# The 33 words that Lucene's EnglishAnalyzer leaves out.
ENGLISH_STOP_WORDS = frozenset(
    (
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was will with"
    ).split()
)
ANALYZERS = ("english", "simple")
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_POSSESSIVE = ("'s", "’s")

AnalyzerLike = str | Callable[[str], list[str]]


class Analyzer:
    """`Analyzer(name)(text) -> terms`.

    simple   runs of word characters (with inner apostrophes), lower case
    english  simple, then without possessive 's and Lucene's 33 English stop words, then the Snowball English stemmer (PyStemmer)
    callable any function from text to a list of terms
    """

    def __init__(self, analyzer: AnalyzerLike = "english") -> None:
        if callable(analyzer):
            self.name = getattr(analyzer, "__name__", type(analyzer).__name__)
        elif analyzer in ANALYZERS:
            self.name = analyzer
        else:
            raise InputError("analyzer", got=analyzer, expected=f"one of {', '.join(ANALYZERS)}, or a function from text to terms")
        self._custom = analyzer if callable(analyzer) else None
        self._stem = _english_stemmer() if analyzer == "english" else None

    def __call__(self, text: str) -> list[str]:
        if self._custom is not None:
            return list(self._custom(text))
        words = _WORD.findall(text.lower())
        if self._stem is None:
            return words
        words = [word[:-2] if word.endswith(_POSSESSIVE) else word for word in words]
        return self._stem([word for word in words if word not in ENGLISH_STOP_WORDS])

    def __repr__(self) -> str:
        return f"Analyzer({self.name})"


def _english_stemmer() -> Callable[[list[str]], list[str]]:
    try:
        import Stemmer
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "the analyzer 'english' needs PyStemmer", hint="pip install PyStemmer, or use analyzer='simple'."
        ) from error
    stem: Callable[[list[str]], list[str]] = Stemmer.Stemmer("english").stemWords
    return stem
