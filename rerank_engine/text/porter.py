"""Porter's stemmer as Lucene's PorterStemFilter has it, for the analyzer "lucene-english".

It is Porter's paper with the three departures that his own program has and Snowball's "porter" has not: words of one or two characters stay
("us"), step 2 has -logi -> -log ("technology" is "technolog"), and -bli -> -ble in place of -abli -> -able ("possibly" is "possibl").

Source: M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980; the departures are listed on his page about the algorithm.
"""

from __future__ import annotations

# Suffix -> what stands for it, where the measure of what comes before is > 0. The first that fits decides: longer ones come first.
STEP_2 = {
    "ational": "ate", "ization": "ize", "iveness": "ive", "fulness": "ful", "ousness": "ous", "tional": "tion", "biliti": "ble",
    "entli": "ent", "ousli": "ous", "ation": "ate", "alism": "al", "aliti": "al", "iviti": "ive", "enci": "ence", "anci": "ance",
    "izer": "ize", "alli": "al", "ator": "ate", "logi": "log", "bli": "ble", "eli": "e",
}  # fmt: skip
STEP_3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ness": "", "ful": ""}
# Taken off where the measure is > 1
STEP_4 = "ement ance ence able ible ment ant ent ism ate iti ous ive ize ion al er ic ou".split()


def _shape(word: str) -> str:
    """A "v" for each vowel and a "c" for every other character; y is a vowel after a consonant."""
    shape, before = [], "v"
    for letter in word:
        before = "v" if letter in "aeiou" or (letter == "y" and before == "c") else "c"
        shape.append(before)
    return "".join(shape)


def _measure(word: str) -> int:
    """m of [C](VC)^m[V]."""
    return _shape(word).count("vc")


def _short(word: str) -> bool:
    """Ends in consonant, vowel, consonant, the last not w, x or y: "hop"."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"


def _doubled(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _shape(word)[-1] == "c"


def _step_1(word: str) -> str:
    """Plurals, -ed, -ing, and a final y."""
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    cut = 2 if word.endswith("ed") else 3 if word.endswith("ing") else 0
    if word.endswith("eed"):
        word = word[:-1] if _measure(word[:-3]) > 0 else word
    elif cut and "v" in _shape(word[:-cut]):
        word = word[:-cut]
        if word.endswith(("at", "bl", "iz")):
            word += "e"
        elif _doubled(word):
            word = word if word[-1] in "lsz" else word[:-1]
        elif _measure(word) == 1 and _short(word):
            word += "e"
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    return word


def _replaced(word: str, suffixes: dict[str, str]) -> str:
    for suffix, other in suffixes.items():
        if word.endswith(suffix):
            stem = word.removesuffix(suffix)
            return stem + other if _measure(stem) > 0 else word
    return word


def _step_4(word: str) -> str:
    for suffix in STEP_4:
        if word.endswith(suffix):
            stem = word.removesuffix(suffix)
            if suffix == "ion" and not stem.endswith(("s", "t")):
                continue
            return stem if _measure(stem) > 1 else word
    return word


def porter(word: str) -> str:
    """The stem of a lower case word."""
    if len(word) <= 2:
        return word
    word = _step_4(_replaced(_replaced(_step_1(word), STEP_2), STEP_3))
    measure = _measure(word)
    if word.endswith("e") and (measure > 1 or (measure == 1 and not _short(word[:-1]))):
        word = word[:-1]
    if word.endswith("ll") and measure > 1:
        word = word[:-1]
    return word
