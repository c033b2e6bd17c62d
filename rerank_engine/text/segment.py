"""Normalisation and word segmentation: one regular expression per rule set, built from `unicodedata` when it is first needed.

normalise   NFKC(casefold(NFKC(text))), and a dotted i is a plain i, so that "İstanbul" is "istanbul". Idempotent. ASCII takes
            `str.lower`, which is the same there. Default-ignorable characters stay until the words are cut: UAX #29 wants them in words.
"words"     the words of UAX #29's default boundaries (segments with a letter or a digit), and pictographs one by one, but
            - scripts without spaces become n-grams (see `ngrams`) where UAX #29 gives single characters (Han, Hiragana), runs (Katakana),
              or leaves them to a dictionary (Thai, Lao, Khmer, Myanmar ...); Hangul too, whose particles follow without a space;
            - "." and ":" do not join letters: "end.Next", "U.S" and "EU:s" are two words each;
            - an apostrophe joins letters and digits alike, and a middle dot too.
"uax29"     for Lucene's StandardTokenizer: none of these deviations. A Han or Hiragana character, a run of Katakana, and a run of Thai and
            its like are one word each. Words longer than 255 characters are kept whole, where Lucene cuts them.
Both        what joins two characters is decided by the one character before it, so a combining mark counts as a letter; beyond the Basic
            Multilingual Plane, the punctuation of ancient scripts counts as their letters.

Sources: Unicode Standard Annexes #15 and #29. Letters, digits and marks are those of the running Python's `unicodedata`; the scripts and
the few Word_Break values that it does not carry are written down here as ranges.
"""

from __future__ import annotations

import operator
import re
import unicodedata
from functools import lru_cache

HAN = "\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
HIRAGANA = "\u3041-\u3096\u309d-\u309f\U0001b001-\U0001b11f\U0001b150-\U0001b152"
KATAKANA = (
    "\u3031-\u3035\u309b-\u309c\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d\U0001b000\U0001b120-\U0001b122\U0001b164-\U0001b167"
)
HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uffa0-\uffdc"
BOPOMOFO = "\u3105-\u312f\u31a0-\u31bf"
CJK = HAN + HIRAGANA + KATAKANA + HANGUL + BOPOMOFO
# Thai, Lao, Myanmar, Khmer, Tai Le, New Tai Lue, Tai Tham, Myanmar extended, Tai Viet: whole blocks, of which the letters count.
SOUTH_EAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u197f\u1980-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaa7f\uaa80-\uaadf"
ASTRAL_WORDS = "\U00010000-\U0001afff\U0001b170-\U0001b2ff\U0001bc00-\U0001bcaf\U0001d000-\U0001efff"
# Format characters and variation selectors, which belong to the word that they stand in and say nothing, and the keycap. The zero width
# space is not one of them: it separates words.
IGNORABLE_PLAIN = "\u00ad\u034f\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\u20e3\ufe00-\ufe0f\ufeff"
IGNORABLE = IGNORABLE_PLAIN + "\U000e0001-\U000e01ef"
# Extended_Pictographic as far as NFKC leaves it alone; beyond the Basic Multilingual Plane, the whole blocks.
PICTOGRAPH = (
    "\u203c\u2049\u2194-\u2199\u21a9\u21aa\u231a\u231b\u2328\u2388\u23cf\u23e9-\u23f3\u23f8-\u23fa\u25aa\u25ab\u25b6\u25c0\u25fb-\u25fe"
    "\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271d\u2721\u2728\u2733\u2734\u2744\u2747\u274c\u274e"
    "\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27a1\u27b0\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\u3030\u303d"
    "\U0001f000-\U0001f1e5\U0001f201-\U0001f3fa\U0001f400-\U0001faff"
)
REGIONAL, SKIN = "\U0001f1e6-\U0001f1ff", "\U0001f3fb-\U0001f3ff"
APOSTROPHES = "'’‘＇\u05f3"  # the last is Hebrew's geresh
HEBREW = "\u05d0-\u05ea"
MIDDLE_OF_NUMBERS = "．;\u037e\u0589\u060c\u060d\u07f8\u2044；，\ufe10\ufe14\ufe50\ufe54"

ASCII_PATTERNS = {
    "words": re.compile(r"[a-z0-9_]+(?:(?:'|[.,](?<=[0-9].)(?=[0-9]))[a-z0-9_]+)*"),
    "uax29": re.compile(r"\w+(?:(?:[.':](?<=[^\W\d_].)(?=[^\W\d_])|[.,';](?<=\d.)(?=\d))\w+)*", re.ASCII),
}


def normalise(text: str) -> str:
    """See above. Every string is fine, one with lone surrogates too."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).replace("İ", "i").casefold()
    if not unicodedata.is_normalized("NFKC", folded):
        folded = unicodedata.normalize("NFKC", folded)
    return folded.replace("i\u0307", "i") if "\u0307" in folded else folded


def normalise_turkish(text: str) -> str:
    """The same, but that "I" is the capital of "ı"."""
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return normalise(text.replace("İ", "i").replace("I", "ı"))


def lower(text: str) -> str:
    """Lower case code point by code point, as Java and Lucene do: Python's own looks at a capital sigma's neighbours and keeps İ's dot."""
    return text.lower() if text.isascii() else text.replace("İ", "i").replace("Σ", "σ").lower()


@lru_cache(maxsize=2)
def _classes(rules: str = "words") -> tuple[str, str, str]:
    """(letters and digits without those of unspaced scripts, letters of South East Asia, marks) of the Basic Multilingual Plane: the
    insides of character classes. They are listed, not left to `\\w`, since re looks a listed plane up in a table."""
    unspaced = re.compile(f"[{CJK}]")
    south_east = re.compile(f"[{SOUTH_EAST_ASIAN}]")
    words, asian, mark = [ord("_")], list[int](), list[int]()
    for point in range(0x30, 0x10000):
        character = chr(point)
        if character.isalnum():
            if unspaced.match(character) or character in "\uff9e\uff9f":
                continue
            if rules == "uax29" and not character.isalpha() and unicodedata.category(character) == "No":
                continue  # no ² in its words; for the other rules NFKC has made it a 2
            (asian if south_east.match(character) and not character.isdecimal() else words).append(point)
        elif point >= 0x300 and unicodedata.category(character)[0] == "M":
            mark.append(point)
    return _ranges(sorted(words)), _ranges(asian), _ranges(mark)


def _ranges(points: list[int]) -> str:
    parts, start = [], 0
    for at in range(1, len(points) + 1):
        if at == len(points) or points[at] != points[at - 1] + 1:
            parts.append(f"\\U{points[start]:08x}-\\U{points[at - 1]:08x}")
            start = at
    return "".join(parts)


@lru_cache(maxsize=4)
def pattern(rules: str, plain: bool) -> re.Pattern[str]:
    """`pattern("words", False).findall(normalised text)`: words, runs of unspaced scripts, pictographs, in order.

    plain: words alone, for texts in which `special` finds nothing, which is three times as fast.
    """
    letters, asian, mark = _classes(rules)
    extend, astral = mark + (IGNORABLE_PLAIN if plain else IGNORABLE), "" if plain else ASTRAL_WORDS
    if rules == "uax29":
        letters, extend = letters + HANGUL + "\u05f3\u066b\u3005\u303b", extend + "\uff9e\uff9f" + ("" if plain else SKIN)
    word, more = f"[{letters}{astral}]", f"[{letters}{extend}{astral}]*"
    # Each alternative begins with a class, which re tries without entering it. The one character before is looked at afterwards.
    number = r"[.,\u066b\u066c{0}](?<=\d[.,\u066b\u066c{0}])(?=\d)"
    quote = f'["״](?<=[{HEBREW}].)(?=[{HEBREW}])'
    if rules == "uax29":
        middle = rf"[.:．：·‧״\u055f{APOSTROPHES}](?<![\d_].)(?=[^\W\d_])|{number.format(MIDDLE_OF_NUMBERS + APOSTROPHES)}|{quote}"
        runs = rf"[{KATAKANA}][{KATAKANA}_{extend}]*|[{HAN}{HIRAGANA}][{extend}]*|[{asian}][{asian}{extend}]*"
    else:
        middle = rf"[·‧{APOSTROPHES}]|{number.format('')}|{quote}"
        runs = rf"[{CJK}][{CJK}{extend}]*|[{asian}][{asian}{extend}]*"
    words = f"{word}{more}(?:(?:{middle}){word}{more})*"
    if plain:
        return re.compile(words)
    first, then = (f"©®™ℹ{PICTOGRAPH}{SKIN}", SKIN + extend) if rules == "uax29" else (PICTOGRAPH, SKIN + IGNORABLE)
    one = f"[{first}][{then}]*"  # whose ignorables hold the zero width joiner
    return re.compile(f"{words}|{runs}|[{REGIONAL}]{{2}}|{one}(?:(?<=\u200d){one})*")


@lru_cache(maxsize=1)
def special() -> re.Pattern[str]:
    """Finds a character that is not for the plain pattern: of an unspaced script, a pictograph, one beyond the Basic Multilingual Plane."""
    basic = re.sub("[\U00010000-\U0010ffff]-?", "", CJK + PICTOGRAPH) + "©®™ℹ"
    return re.compile(f"[{basic}{_classes()[1]}\U00010000-\U0010ffff]")


@lru_cache(maxsize=1)
def unspaced() -> re.Pattern[str]:
    """Matches at a character whose run becomes n-grams under "words"."""
    return re.compile(f"[{CJK}{_classes()[1]}]")


@lru_cache(maxsize=1)
def _south_east() -> re.Pattern[str]:
    return re.compile(f"[{_classes()[1]}]")


@lru_cache(maxsize=1)
def _clusters() -> tuple[re.Pattern[str], re.Pattern[str]]:
    mark = _classes()[2]
    return re.compile(f"[{mark}{IGNORABLE}]"), re.compile(f"[^{mark}][{mark}]*")


def ngrams(run: str) -> list[str]:
    """A run of an unspaced script as n-grams of characters, each with its marks.

    Chinese, Japanese, Korean: unigrams, then bigrams, so that a query of one character finds something and longer ones weigh more.
    Thai and its like: bigrams alone (a single letter of an alphabet says nothing), or the one character that there is.
    """
    has_marks, cluster = _clusters()
    characters = cluster.findall(clean(run)) if has_marks.search(run) else list(run)
    bigrams = list(map(operator.add, characters, characters[1:]))
    if len(characters) > 1 and _south_east().match(run):
        return bigrams
    return characters + bigrams


# Vowel points and accents of Hebrew and Arabic and the Arabic tatweel: printed in scripture and school books, typed by nobody.
POINTS = (
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u0652\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
)
_DROPPED = re.compile(f"[{POINTS}{IGNORABLE}{SKIN}]+")
_QUOTES = re.compile(f"[{APOSTROPHES}]")
_DIGITS = re.compile(r"[^\D0-9]")
_UNCLEAN = re.compile(rf"[{POINTS}{APOSTROPHES}״{IGNORABLE}{SKIN}]|[^\D0-9]")


def clean(word: str) -> str:
    """A word without what it may hold but nobody searches for: ignorables, skin tones, points. One apostrophe, decimal digits in ASCII."""
    if not _UNCLEAN.search(word):
        return word
    word = _QUOTES.sub("'", _DROPPED.sub("", word)).replace("״", '"')
    return _DIGITS.sub(lambda digit: str(unicodedata.decimal(digit[0])), word)
