"""From a word to its term, remembered: a vocabulary repeats, so the work per word is done once."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import InputError, MissingDependency
from .languages import LANGUAGES, LUCENE_PORTER, Language
from .segment import clean

CACHED = 1 << 17  # words remembered; some 25 MB when full. Then all are forgotten: the frequent ones are back at once


class Terms(dict[str, str]):
    """`terms[word]` is the word's term, or "" when it has none: a stop word, or nothing but underscores.

    A dictionary, so that known words never leave the interpreter's C code. Threads share it, and each has a stemmer of its own: PyStemmer's
    is not safe to share.
    """

    def __init__(self, language: Language, stopped: frozenset[str], stemmer: str | None) -> None:
        self.language, self.stopped, self.stemmer = language, stopped, stemmer
        self._own = threading.local()
        if stemmer is not None:
            self._own.stem = make_stemmer(stemmer)  # now, so that a missing one is known before any work

    def __missing__(self, word: str) -> str:
        if len(self) >= CACHED:
            self.clear()
        term = self[word] = self._term(word)
        return term

    def _term(self, word: str) -> str:
        if self.language.rules == "words" and not word.isascii():
            word = clean(word)
        if self.language.strip:
            word = _stripped(word, self.language)
        if word in self.stopped or not word.strip("_"):
            return ""
        if self.stemmer is None:
            return word
        try:
            stem = self._own.stem
        except AttributeError:  # the first word of this thread
            stem = self._own.stem = make_stemmer(self.stemmer)
        found: str = stem(word)
        return found


_POSSESSIVE = ("'s", "’s", "＇s")


def _stripped(word: str, language: Language) -> str:
    if language.strip == "possessive":
        return word[:-2] if word.endswith(_POSSESSIVE) else word
    before, apostrophe, after = word.partition("'")
    if not apostrophe:
        return word
    if language.strip == "suffix":
        return before
    return after if before in language.elided else word


def make_stemmer(name: str) -> Any:
    """A function from a word to its stem. Raises MissingDependency without PyStemmer or with one that is too old, InputError for an unknown
    name."""
    if name == LUCENE_PORTER:
        from .porter import porter

        return porter
    try:
        import Stemmer
    except ModuleNotFoundError as error:
        hint = "pip install PyStemmer, or use analyzer='simple'."
        raise MissingDependency(f"the stemmer {name!r} needs PyStemmer", hint=hint) from error
    if name not in Stemmer.algorithms():
        if any(language.stemmer == name for language in LANGUAGES.values()):
            raise MissingDependency(f"PyStemmer {Stemmer.version()} has no stemmer {name!r}", hint="pip install 'PyStemmer>=3.1'.")
        raise InputError("stemmer", got=name, expected=f"None or one of {', '.join((LUCENE_PORTER, *Stemmer.algorithms()))}")
    return Stemmer.Stemmer(name, 0).stemWord  # no cache of its own


def snowball_version(stemmer: str | None) -> str | None:
    """Of the algorithms that PyStemmer brings; None for a stemmer that is not one of them."""
    if stemmer in (None, LUCENE_PORTER):
        return None
    import Stemmer

    version: str = Stemmer.version()
    return version
