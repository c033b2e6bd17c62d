from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251  # the round trip is what is tested
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rerank_engine as rr
from rerank_engine.errors import InputError, MissingDependency
from rerank_engine.evaluation.beir import load_beir
from rerank_engine.text import ANALYZERS, Analyzer
from rerank_engine.text import terms as terms_module
from rerank_engine.text.languages import CODES, LANGUAGES, NAMED
from rerank_engine.text.stop_words import STOP_WORDS

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
LANGUAGE_NAMES = sorted(NAMED)
# Words of one paradigm meet in one term; function words go; the word shapes of the scripts hold.
GOLDEN = [
    ("english", "The Fleas' dog: running, Newton's and O’Neill’s laws!", ["flea", "dog", "run", "newton", "o'neil", "law"]),
    ("english", "Élan 42 C++ naïve ﬁne", ["élan", "42", "c", "naïv", "fine"]),
    ("english", "pi=3.14, 1,000 or １０; end.Next snake_case ____", ["pi", "3.14", "1,000", "10", "end", "next", "snake_cas"]),
    ("english", "co\u00adoperate me\u200bnu a\u200db İstanbul Straße", ["cooper", "me", "nu", "ab", "istanbul", "strass"]),
    ("en", "GPU推論は速い", ["gpu", "推", "論", "は", "速", "い", "推論", "論は", "は速", "速い"]),
    ("en", "I ♥ pizza 🍕🍕 👍🏽 👩‍🚀 🇫🇷🇩🇪", ["i", "♥", "pizza", "🍕", "🍕", "👍", "👩🚀", "🇫🇷", "🇩🇪"]),
    ("simple", "The Fleas, THE dog's", ["the", "fleas", "the", "dog's"]),
    ("german", "Die Häuser in den großen Straßen", ["haus", "gross", "strass"]),
    ("fr", "L’avion qu'il a vu: les chevaux d'Aurélie", ["avion", "vu", "cheval", "aurel"]),
    ("spanish", "¿Dónde están las bibliotecas?", ["bibliotec"]),
    ("italian", "Dell'amico e gli amici", ["amic", "amic"]),
    ("pt", "As casas não são minhas", ["cas", "minh"]),
    ("nl", "De honden in het huis", ["hond", "huis"]),
    ("swedish", "Bilarna och husen", ["bil", "hus"]),
    ("russian", "В больших городах и большой город", ["больш", "город", "больш", "город"]),
    ("turkish", "İSTANBUL'da IŞIK", ["istanbul", "ışık"]),
    ("arabic", "مُحَمَّد في المدينة ٢٠٢٠", ["محمد", "مدين", "2020"]),
    ("hebrew", "שָׁלוֹם צה״ל", ["שלום", 'צה"ל']),
    ("hindi", "हिन्दी भाषा १२", ["हिन्द", "भाष", "12"]),
    ("el", "Οι ΛΟΓΟΣ λόγος", ["λογ", "λογ"]),
    ("chinese", "中国的大学", ["中", "国", "的", "大", "学", "中国", "国的", "的大", "大学"]),
    ("ja", "ｺﾝﾋﾟｭｰﾀ", ["コ", "ン", "ピ", "ュ", "ー", "タ", "コン", "ンピ", "ピュ", "ュー", "ータ"]),
    ("korean", "책을 책", ["책", "을", "책을", "책"]),
    ("thai", "ไทย ก ๑๒", ["ไท", "ทย", "ก", "12"]),
    ("thai", "น้ำ", ["น้ํา"]),  # NFKC takes the last character apart; marks stay with their letter
    ("lucene-english", "The dog's U.S.A. EU:s 1;2 possibly us technology", ["dog", "u.s.a", "eu:", "1;2", "possibl", "us", "technolog"]),
    ("lucene-english", "GPU推論 コンピュータ ภาษาไทย ___ x² ©", ["gpu", "推", "論", "コンピュータ", "ภาษาไทย", "x", "©"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "expected"), GOLDEN, ids=lambda value: value if isinstance(value, str) else "")
def test_golden(name: str, text: str, expected: list[str]) -> None:
    assert Analyzer(name)(text) == expected


LUCENE = json.loads(Path(__file__).with_name("lucene_english.json").read_text(encoding="utf-8"))["pairs"]


@pytest.mark.parametrize(("text", "expected"), LUCENE)
def test_lucene_english_is_what_lucene_itself_gave(text: str, expected: list[str]) -> None:
    assert Analyzer("lucene-english")(text) == expected


@pytest.mark.parametrize("name", LANGUAGE_NAMES)
def test_every_named_analyzer_takes_texts_without_words(name: str) -> None:
    analyze = Analyzer(name)
    for text in ("", " \n", "?!.,:'", "\ud800", "\u200d", "___", "\u0301"):
        assert analyze(text) == []
    assert analyze("xyzzy Ωmega") != []


@given(text=ANY_TEXT, name=st.sampled_from(LANGUAGE_NAMES))
def test_any_text_gives_terms_that_are_never_empty(text: str, name: str) -> None:
    analyze = Analyzer(name)
    terms = analyze(text)
    assert all(isinstance(term, str) and term for term in terms)
    assert analyze(text) == terms  # from the cache


@given(st.lists(st.text("абвгд Éßİıǅ１ﬁ中あ한ไนָׁ้'’.,3👍🏽\u200d\u00ad", max_size=12), min_size=1))
def test_simple_terms_do_not_depend_on_case_form_or_neighbours(texts: list[str]) -> None:
    analyze = Analyzer("simple")
    apart = [term for text in texts for term in analyze(text)]
    assert analyze("\n".join(texts)) == apart
    again = analyze("\n".join(apart))
    joined = any("\u200d" in text and "👍" in text for text in texts)  # pictographs with a joiner are one term, without the joiner two
    assert joined or set(apart) <= set(again)


def test_stop_words_and_stemmer_can_be_chosen() -> None:
    assert Analyzer("english", stop_words=None, stemmer=None)("The dogs'") == ["the", "dogs"]
    assert Analyzer("english", stop_words=["DOGS", "ﬁne"])("the dogs fine cats") == ["the", "cat"]
    assert Analyzer("simple", stop_words="de", stemmer="german")("Die Häuser") == ["haus"]
    assert Analyzer("english", stemmer="porter")("fairly") == ["fairli"]
    assert Analyzer("chinese", stop_words=["的"])("我的") == ["我", "我的"]
    assert repr(Analyzer("en", stemmer="porter", stop_words=["a", "b"])) == "Analyzer(english, stemmer=porter, stop_words=2)"
    same = Analyzer("german")
    assert Analyzer(same)("Häuser") == same("Häuser") and Analyzer(same).config == same.config


def test_stop_words_are_normalised_words_that_the_analysis_takes_out() -> None:
    for language, words in STOP_WORDS.items():
        assert language in LANGUAGES
        assert Analyzer(language)(words) == [], language
        assert set(Analyzer("simple")(words)) <= set(words.split()), language


def test_callables_tokens_and_ids() -> None:
    custom = Analyzer(str.split)
    assert custom("A b") == ["A", "b"] and custom.name == "split"
    tokens = Analyzer("tokens")
    assert tokens(["The", "", "Dög’s"]) == ["The", "", "Dög’s"] and tokens(()) == []
    ids = Analyzer("ids")
    assert ids([7, 0, 7]) == ["7", "0", "7"] == ids(np.array([7, 0, 7], np.uint32)) and ids([]) == []
    for analyzer, wrong in ((tokens, "a text"), (tokens, [1]), (tokens, None), (ids, "1"), (ids, ["1"]), (ids, [1.0]), (ids, [-1])):
        with pytest.raises(InputError, match="got"):
            analyzer(wrong)  # type: ignore[arg-type]
    for wrong in (["a"], None, b"a"):
        with pytest.raises(InputError, match="tokens"):
            Analyzer("english")(wrong)  # type: ignore[arg-type]


def test_wrong_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"english, .*simple"):
        Analyzer("klingon")
    with pytest.raises(InputError, match="got 7"):
        Analyzer(7)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="porter"):
        Analyzer("english", stemmer="krovetz")
    with pytest.raises(InputError, match="german"):
        Analyzer("english", stop_words="klingon")
    with pytest.raises(InputError, match="strings"):
        Analyzer("english", stop_words=[1])  # type: ignore[list-item]
    for analyzer in (str.split, "tokens", Analyzer("simple")):
        with pytest.raises(InputError, match="stop_words or stemmer"):
            Analyzer(analyzer, stemmer=None)
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(MissingDependency, match="pip install PyStemmer"):
        Analyzer("english")
    assert Analyzer("simple")("still works") == ["still", "works"]
    assert Analyzer("lucene-english")("still works") == ["still", "work"]


def test_an_older_pystemmer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import Stemmer

    monkeypatch.setattr(Stemmer, "algorithms", lambda: ["english"])
    with pytest.raises(MissingDependency, match=r"has no stemmer 'polish'.*PyStemmer>="):
        Analyzer("pl")


@pytest.mark.parametrize("name", ANALYZERS)
def test_config_round_trip(name: str) -> None:
    analyzer = Analyzer(name)
    config = json.loads(json.dumps(analyzer.config))
    again = Analyzer.from_config(config)
    assert again.config == config
    analyzer.check(config)
    assert Analyzer.from_config(config, name).name == name


def test_config_of_a_combination_holds_its_words() -> None:
    analyzer = Analyzer("english", stop_words=["Zebra", "ant"], stemmer=None)
    config = json.loads(json.dumps(analyzer.config))
    assert Analyzer.from_config(config)("the zebra ants ran") == ["the", "ants", "ran"]
    assert config["stop_words"] == ["ant", "zebra"] and config["stemmer"] is None and config["snowball"] is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Analyzer("german"), "analyzer.*'english', with which the index was built"),
        (Analyzer("english", stemmer="porter"), "stemmer"),
        (Analyzer("english", stop_words=None), "stop_words"),
        (Analyzer(str.split), "callable"),
        (Analyzer("tokens"), "tokens"),
    ],
)
def test_an_index_of_another_analysis_is_refused(other: Analyzer, message: str) -> None:
    with pytest.raises(InputError, match=message):
        other.check(Analyzer("english").config)
    with pytest.raises(InputError, match="build the index again"):
        Analyzer.from_config(Analyzer("english").config, other)


def test_versions_in_a_config() -> None:
    analyzer = Analyzer("english")
    config = analyzer.config
    major, minor, *_ = config["snowball"].split(".")
    analyzer.check({**config, "snowball": f"{major}.{minor}.99", "unicode": "9.0.0"})
    with pytest.raises(InputError, match=r"PyStemmer==1\.3\.\*"):
        analyzer.check({**config, "snowball": "1.3.0"})
    with pytest.raises(InputError, match="Build the index again"):
        Analyzer.from_config({**config, "scheme": 0})


@pytest.mark.parametrize(
    "config", [None, [], {}, {"analyzer": 3}, {"scheme": 1, "analyzer": "klingon"}, {"scheme": 1, "analyzer": "english", "stemmer": 5}]
)
def test_a_config_that_is_none(config: object) -> None:
    with pytest.raises(rr.errors.RerankError):
        Analyzer.from_config(config)  # type: ignore[arg-type]


class Splitter:
    def __call__(self, text: str) -> list[str]:
        return text.split("-")


def test_config_of_a_callable_is_its_name() -> None:
    config = Analyzer(str.split).config
    assert config["callable"] == "builtins.str.split"
    assert Analyzer(Splitter()).config["callable"].endswith("test_analyzer.Splitter")
    assert Analyzer(lambda text: [text]).config["callable"].endswith("<lambda>")
    assert Analyzer.from_config(config, str.split)("a b") == ["a", "b"]
    with pytest.raises(InputError, match=r"str.split.*Pass that function"):
        Analyzer.from_config(config)
    with pytest.raises(InputError, match="callable"):
        Analyzer.from_config(config, str.splitlines)


@pytest.mark.parametrize("analyzer", [Analyzer("english", stemmer="porter"), Analyzer("zh"), Analyzer("tokens"), Analyzer(str.split)])
def test_copies_and_pickles(analyzer: Analyzer) -> None:
    text = ["The", "dogs"] if analyzer.name == "tokens" else "The dogs 中国"
    expected = analyzer(text)
    for other in (copy.deepcopy(analyzer), copy.copy(analyzer), pickle.loads(pickle.dumps(analyzer))):  # noqa: S301
        assert other(text) == expected and other.config == analyzer.config


def test_threads_give_the_same_terms_with_a_cache_that_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms_module, "CACHED", 50)
    texts = [" ".join(f"running{i * j % 997} houses{j} été" for j in range(40)) for i in range(200)]
    expected = [Analyzer("english")(text) for text in texts]
    shared = Analyzer("english")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(shared, texts * 3)) == expected * 3
    assert len(shared._terms) <= 50 + 8  # each thread may add one word to a full cache


def test_codes_name_languages() -> None:
    assert set(CODES.values()) == set(LANGUAGES)
    assert Analyzer("de").name == "german"


# nDCG@10 of BM25 (k1 1.2, b .75)
@pytest.mark.parametrize(
    ("collection", "floor"),
    [("scifact", 0.67), ("cranfield", 0.37), ("vaswani", 0.41), ("cisi", 0.38), ("trec-dl19-pool", 0.39), ("rag-xquad-en", 0.91)],
)
def test_quality_of_english(shared_data, collection: str, floor: float) -> None:
    assert quality(shared_data / collection, "english", "nDCG@10") > floor


@pytest.mark.parametrize(("language", "floor"), [("zh", 0.98), ("ru", 0.98), ("ar", 0.98), ("de", 0.975), ("es", 0.985)])
def test_quality_of_other_languages(shared_data, language: str, floor: float) -> None:
    found = quality(shared_data / "xquad" / language, language, "R@10")
    assert found > floor
    assert found >= quality(shared_data / "xquad" / language, "simple", "R@10")


def quality(folder, analyzer: str, measure: str) -> float:
    data = load_beir(folder)
    index = rr.BM25Index.build(data.corpus, analyzer=analyzer)
    hits = index.search([query.text for query in data.queries], 10)
    ids = data.corpus.ids
    run = {query.id: {ids[row]: float(score) for row, score in zip(*found)} for query, found in zip(data.queries, hits)}
    return rr.evaluate(data.qrels, run, [measure])[measure]
