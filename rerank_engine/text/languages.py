"""The named analyses as data: what each does beyond normalisation and segmentation."""

from __future__ import annotations

from dataclasses import dataclass

from .stop_words import STOP_WORDS

# The 33 words that Lucene's EnglishAnalyzer leaves out.
ENGLISH_STOP_WORDS = frozenset(STOP_WORDS["english"].split())


@dataclass(frozen=True)
class Language:
    """stemmer: the name of a Snowball algorithm; stop_words: a key of STOP_WORDS; strip: what goes before the stop words are looked up
    ("possessive": 's at the end, "suffix": the apostrophe and what follows, "elision": a prefix of `elided` with its apostrophe)."""

    stemmer: str | None = None
    stop_words: str | None = None
    strip: str = ""
    elided: frozenset[str] = frozenset()
    rules: str = "words"


LUCENE_PORTER = "lucene-porter"  # ours (porter.py), not PyStemmer's
CODES = {
    "ar": "arabic",
    "hy": "armenian",
    "eu": "basque",
    "ca": "catalan",
    "cs": "czech",
    "da": "danish",
    "nl": "dutch",
    "en": "english",
    "eo": "esperanto",
    "et": "estonian",
    "fi": "finnish",
    "fr": "french",
    "de": "german",
    "el": "greek",
    "hi": "hindi",
    "hu": "hungarian",
    "id": "indonesian",
    "ga": "irish",
    "it": "italian",
    "lt": "lithuanian",
    "ne": "nepali",
    "no": "norwegian",
    "nb": "norwegian",
    "fa": "persian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "st": "sesotho",
    "es": "spanish",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
    "zh": "chinese",
    "ja": "japanese",
    "ko": "korean",
    "th": "thai",
    "he": "hebrew",
}
UNSTEMMED = ("chinese", "japanese", "korean", "thai", "hebrew")  # no Snowball algorithm
_FRENCH = frozenset("l d j m t s c n qu jusqu lorsqu puisqu quoiqu".split())
_ITALIAN = frozenset("l un d c m t s v n gl all dall dell nell sull coll agl dagl degl negl sugl quest quell bell".split())
_STRIP: dict[str, tuple[str, frozenset[str]]] = {
    "english": ("possessive", frozenset()),
    "turkish": ("suffix", frozenset()),  # İstanbul'da
    "french": ("elision", _FRENCH),
    "italian": ("elision", _ITALIAN),
    "catalan": ("elision", frozenset("l d m n s t".split())),
    "irish": ("elision", frozenset("b d m".split())),
}

LANGUAGES = {
    name: Language(None if name in UNSTEMMED else name, name if name in STOP_WORDS else None, *_STRIP.get(name, ("", frozenset[str]())))
    for name in dict.fromkeys(CODES.values())
}
NAMED = {
    **LANGUAGES,
    "simple": Language(),
    "lucene-english": Language(LUCENE_PORTER, "english", "possessive", rules="uax29"),
}
ANALYZERS = (*NAMED, "whitespace", "tokens", "ids")
