from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_engine.text.segment import ASCII_PATTERNS, clean, lower, ngrams, normalise, normalise_turkish, pattern, special

ANY_TEXT = st.text(st.characters(exclude_categories=()))


def test_normalisation_of_every_character_is_idempotent() -> None:
    for point in range(sys.maxunicode + 1):
        once = normalise(chr(point))
        assert normalise(once) == once, hex(point)
        assert clean(clean(once)) == clean(once), hex(point)


@given(ANY_TEXT)
def test_normalisation_is_idempotent(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFKC", once)
    turkish = normalise_turkish(text)
    assert normalise_turkish(turkish) == turkish


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße", "strasse"),
        ("ＡＢＣ１", "abc1"),
        ("ﬁ", "fi"),
        ("ΛΟΓΟΣ λόγος", "λογοσ λόγοσ"),
        ("İI", "ii"),
        ("e\u0301", "é"),
        ("\ud800A", "\ud800a"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_turkish_and_java_lower_case() -> None:
    assert normalise_turkish("İIiı") == "iıiı"
    assert normalise_turkish("I\u0307") == "i"  # İ, decomposed
    assert lower("İΣ ΟΔΟΣ ẞ") == "iσ οδοσ ß"


@given(st.text(st.characters(max_codepoint=127)), st.sampled_from(["words", "uax29"]))
def test_ascii_and_full_patterns_agree(text: str, rules: str) -> None:
    text = text.lower()
    words = ASCII_PATTERNS[rules].findall(text)
    assert words == pattern(rules, True).findall(text) == pattern(rules, False).findall(text)


@given(st.text("aé'’.,:3٣_\u0301\u00adא\"·", max_size=20), st.sampled_from(["words", "uax29"]))
def test_the_plain_pattern_agrees_with_the_full_one(text: str, rules: str) -> None:
    assert not special().search(text)
    assert pattern(rules, True).findall(text) == pattern(rules, False).findall(text)


@given(ANY_TEXT)
def test_every_letter_and_digit_is_in_exactly_one_segment(text: str) -> None:
    for rules in ("words", "uax29"):
        kept = "".join(pattern(rules, False).findall(text))
        category = unicodedata.category
        assert [c for c in kept if category(c) in {"Lu", "Ll", "Lt", "Lo", "Nd"}] == [
            c for c in text if category(c) in {"Lu", "Ll", "Lt", "Lo", "Nd"}
        ]


@pytest.mark.parametrize(
    ("text", "words", "uax29"),
    [
        ("can't rock'n'roll 'quoted'", ["can't", "rock'n'roll", "quoted"], None),
        ("3.14 1,000.5 1. 2,x v1.2 1,,2", ["3.14", "1,000.5", "1", "2", "x", "v1.2", "1", "2"], None),
        ("a.b c:d e,f", ["a", "b", "c", "d", "e", "f"], ["a.b", "c:d", "e", "f"]),
        ("2'3 x'3", ["2'3", "x'3"], ["2'3", "x", "3"]),
        ("foo_bar __init__", ["foo_bar", "__init__"], None),
        ("col·lecció e\u0301te\u0301", ["col·lecció", "e\u0301te\u0301"], None),
        ('קו"ח א"', ['קו"ח', "א"], None),
        ("कि·क्या ١٬٠٠٠٫٥", ["कि·क्या", "١٬٠٠٠٫٥"], None),
        ("漢字かなカナ", ["漢字かなカナ"], ["漢", "字", "か", "な", "カナ"]),
        ("한국어 ไทย", ["한국어", "ไทย"], None),
        ("☎️👨‍👩‍👧 🇫🇷🇩🇪 ☆✓", ["☎️", "👨‍👩‍👧", "🇫🇷", "🇩🇪"], None),
        ("𝒳𐌰𐌱 𠀀", ["𝒳𐌰𐌱", "𠀀"], None),
        ("a\u200bb c\u00add e\u2060f", ["a", "b", "c\u00add", "e\u2060f"], None),
    ],
)
def test_segments(text: str, words: list[str], uax29: list[str] | None) -> None:
    assert pattern("words", False).findall(text) == words
    assert pattern("uax29", False).findall(text) == (uax29 or words)


def test_ngrams_and_clean() -> None:
    assert ngrams("中") == ["中"]
    assert ngrams("中国人") == ["中", "国", "人", "中国", "国人"]
    assert ngrams("中\ufe00国") == ["中", "国", "中国"]
    assert ngrams("か\u309a゜") == ["か\u309a", "゜", "か\u309a゜"]
    assert ngrams("ก") == ["ก"]
    assert ngrams("ที่นี่") == ["ที่นี่"]
    assert clean("1\ufe0f\u20e3") == "1"
    assert clean("٢०９") == "209"
    assert clean("مــُحمّد") == "محمد"
