from __future__ import annotations

import sys

import pytest

from rerank_engine.errors import InputError, MissingDependency
from rerank_engine.text import Analyzer


def test_english() -> None:
    analyze = Analyzer("english")
    assert analyze("The Fleas' dog: running, Newton's and O’Neill’s laws!") == ["flea", "dog", "run", "newton", "o’neil", "law"]
    assert analyze("") == []
    assert analyze("the of and") == []
    assert analyze("Élan 42 C++") == ["élan", "42", "c"]


def test_simple_and_callable() -> None:
    assert Analyzer("simple")("The Fleas, THE dog's") == ["the", "fleas", "the", "dog's"]
    custom = Analyzer(str.split)
    assert custom("A b") == ["A", "b"]
    assert custom.name == "split"


def test_unknown_analyzer_and_missing_stemmer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="english, simple"):
        Analyzer("klingon")
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(MissingDependency, match="pip install PyStemmer"):
        Analyzer("english")
    assert Analyzer("simple")("still works") == ["still", "works"]
