"""The same answers as the libraries that people use today. Needs the extra [peers]; what is not installed is skipped."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rerank_engine.corpus import Corpus
from rerank_engine.text import Analyzer
from rerank_engine.text.porter import porter
from rerank_engine.text.segment import pattern

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("collection", ["scifact", "cisi", "trec-dl19-pool"])
def test_porter_equals_nltk(shared_data, collection: str) -> None:
    """NLTK's mode MARTIN_EXTENSIONS is Porter's own program, which Lucene's stemmer is too."""
    stem = pytest.importorskip("nltk.stem.porter", reason="the extra [peers] is not installed")
    theirs = stem.PorterStemmer(mode=stem.PorterStemmer.MARTIN_EXTENSIONS)
    analyze = Analyzer("simple")
    words = {word for document in Corpus.from_beir(shared_data / collection) for word in analyze(document.passage) if word.isalpha()}
    assert len(words) > 5000
    assert {word: porter(word) for word in words} == {word: theirs.stem(word) for word in words}


@pytest.mark.parametrize("collection", ["cranfield", "xquad/ru", "xquad/ar", "xquad/de", "xquad/es"])
def test_uax29_words_equal_icu(shared_data, collection: str) -> None:
    """Segments with a letter or a digit. ICU is in no extra: this runs where PyICU is installed."""
    icu = pytest.importorskip("icu", reason="PyICU is not installed")
    breaks = icu.BreakIterator.createWordInstance(icu.Locale("en"))
    unlike = []
    for document in Corpus.from_beir(shared_data / collection):
        text = "".join(c for c in document.passage if c <= "\u0dff" or "\u2010" <= c <= "\u203f")  # ICU has dictionaries for the rest
        ours = [word for word in pattern("uax29", False).findall(text) if any(map(str.isalnum, word))]
        breaks.setText(text)
        ends = [0, *breaks]
        at = text.encode("utf-16-le")
        theirs = [at[2 * a : 2 * b].decode("utf-16-le") for a, b in pairwise(ends)]
        unlike += set(ours) ^ {word for word in theirs if any(c.isalpha() or c.isdecimal() for c in word)}
    assert unlike == []
