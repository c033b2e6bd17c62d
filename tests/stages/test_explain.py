from __future__ import annotations

import json
import re
import unicodedata
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
from late_models import write_pylate
from models import words
from tokenizers.pre_tokenizers import ByteLevel

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.runtimes.late_config import LateConfig
from rerank_engine.runtimes.tokenize import Tokenizer
from rerank_engine.stages.colbert import ColBERT
from rerank_engine.stages.explain import Explanation, explained, page

# Precomposed and combining accents, CJK without blanks, an emoji with joiners, one beyond the first plane, blanks of several kinds.
HARD = "\u3000 Ab\u00e9 e\u0301a, 中文w1 🐟 👩\u200d🚀\n w2!  (cafe) W3\u00a0"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_pylate(tmp_path_factory.mktemp("late"), config={"max_position_embeddings": 64}, document_length=64)
    return rr.load(folder, device="cpu", threads=1)


def eye(*places: int) -> np.ndarray:
    return np.eye(8, dtype=np.float32)[list(places)]


def by_hand(
    text: str,
    spans: list[tuple[int, int]],
    meets: list[int],
    similarities: list[float] | None = None,
    query: str = "abcdefgh",
    masks: int = 0,
    special: bool = False,
) -> Explanation:
    """An explanation in which query token i meets document token meets[i]. The query's tokens are its letters, the last ones masks."""
    words = len(meets) - masks
    asked = [*((query[i], i, i + 1) for i in range(words)), *[("[MASK]", 0, 0)] * masks]
    document = [(text[start:end] or "[SEP]", start, end) for start, end in spans]
    scale = np.array(similarities or [1.0] * len(meets), np.float32)[:, None]
    return explained(query, text, asked, document, eye(*meets) * scale, eye(*range(len(spans))), special)


def test_matches_are_those_that_the_score_adds_up(model):
    texts = ["w1 w2, w3", "w5 w1 !", "w9"]
    for text in texts:
        found = model.explain("w1 w3", text)
        (scores,) = model.score([rr.Query("w1 w3")], [rr.Ranking.in_order(rr.Corpus.from_texts([text]))])
        assert found.score == pytest.approx(float(scores.values[0]), abs=1e-5)
        assert found.score == pytest.approx(sum(match.similarity for match in found.matches), abs=1e-9)
        query, tokens = model.encode_queries(["w1 w3"])[0], model.encode_documents([text])[0][0]
        assert np.allclose([match.similarity for match in found.matches], (query @ tokens.T).max(1), atol=1e-6)
        assert [match.query_token for match in found.matches] == ["[CLS]", "[Q] ", "w1", "w3", "[SEP]", *["[MASK]"] * 5]
        kept = ["[CLS]", "[D] ", *(word for word in re.findall(r"\w+", text)), "[SEP]"]
        assert [match.token for match in found.matches] == [kept[place] for place in (query @ tokens.T).argmax(1)]


@pytest.mark.parametrize("text", ["w1 w2, w3", HARD, "中文", "\tw1\n", "e\u0301e\u0301 é"])
def test_spans_are_code_points_of_the_text_as_it_was_given(model, text):
    pieces = model._pieces(text, "[D] ", 64)
    assert [token for token, start, end in pieces if not end] == ["[CLS]", "[D] ", "[SEP]"]
    last = 0
    for token, start, end in pieces:
        if not end:
            continue
        piece = text[start:end]
        assert start >= last and piece == piece.strip() and piece
        last = end
        if token != "[UNK]":
            plain = "".join(c for c in unicodedata.normalize("NFD", piece.lower()) if not 0x300 <= ord(c) < 0x370)
            assert plain == token.removeprefix("##")
    assert "".join(text[start:end] for _, start, end in pieces) == "".join(text.split())


def test_the_place_of_every_match_in_a_hard_text(model):
    found = model.explain("w1 🐟 文 w3", HARD)
    for match in found.matches:
        if match.end and match.token in ("w1", "w2", "w3", "中", "文", "🐟"):
            assert HARD[match.start : match.end].lower() == match.token
    for span in found.relevant_spans:
        assert HARD[span["start"] : span["end"]].strip() == HARD[span["start"] : span["end"]] != ""


def test_lower_case_that_has_more_code_points_than_the_text(tmp_path):
    folder = write_pylate(tmp_path, files={"sentence_bert_config.json": {"do_lower_case": True}})
    model, text = rr.load(folder, device="cpu", threads=1), " İ w1 ABİC W2"
    pieces = [(token, text[start:end]) for token, start, end in model._pieces(text, "[D] ", None) if end]
    assert ("w1", "w1") in pieces and ("w2", "W2") in pieces and pieces[-1] == ("w2", "W2")


@pytest.mark.parametrize("trim", [True, False])
def test_spans_of_a_tokenizer_of_bytes(tmp_path, trim):
    """As models with byte-level BPE have it: a character may be several tokens, and a blank is part of a word."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(ByteLevel.alphabet())}, merges=[]))
    made.pre_tokenizer, made.post_processor = ByteLevel(add_prefix_space=False), tokenizers.processors.ByteLevel(trim_offsets=trim)
    made.save(str(tmp_path / "tokenizer.json"))
    states = np.zeros((1, 1, 2), np.float32)
    runtime = SimpleNamespace(name="none", device="cpu", outputs=("last_hidden_state",), run=lambda *_: states)
    config, text = LateConfig("", "", expand=False, skiplist=()), " a 🐟 e\u0301 中b"
    model = ColBERT(runtime, Tokenizer(tmp_path / "tokenizer.json", 64), config, name="bytes")
    pieces = [(start, end) for _, start, end in model._pieces(text, "", None) if end]
    assert [text[start:end] for start, end in dict.fromkeys(pieces)] == ["a", "🐟", "e", "\u0301", "中", "b"]
    assert pieces == sorted(pieces) and pieces.count((3, 4)) == 4


def test_long_documents_are_explained_as_far_as_they_are_read(model):
    text = words(0, 100)
    found = model.explain("w1", text)
    assert max(match.end for match in found.matches) <= len(words(0, 61))


def test_neighbouring_spans_are_one_and_their_scores_add_up():
    text = "one two, three four"
    spans = [(0, 3), (4, 7), (9, 14), (15, 19)]
    found = by_hand(text, spans, [1, 0, 2, 2], [0.5, 0.25, 1.0, 0.75])
    assert found.relevant_spans == ({"start": 9, "end": 14, "score": 1.75}, {"start": 0, "end": 7, "score": 0.75})
    assert by_hand(text, spans, [0, 3]).relevant_spans == ({"start": 0, "end": 3, "score": 1.0}, {"start": 15, "end": 19, "score": 1.0})
    assert by_hand(text, spans, [2, 3, 1, 0]).relevant_spans == (
        {"start": 0, "end": 7, "score": 2.0},
        {"start": 9, "end": 19, "score": 2.0},
    )


def test_tokens_of_one_character_share_its_span():
    found = by_hand("x 🐟y", [(0, 1), (2, 3), (2, 3), (3, 4)], [1, 2, 2, 3])
    assert found.relevant_spans == ({"start": 2, "end": 4, "score": 4.0},)


def test_special_tokens_have_no_span():
    found = by_hand("one", [(0, 0), (0, 3), (0, 0)], [0, 1, 2])
    assert found.relevant_spans == ({"start": 0, "end": 3, "score": 1.0},) and (found.score, found.special_score) == (3, 2)
    assert [match.shown for match in found.matches] == [False, True, False]
    assert [(match.token, match.start, match.end) for match in found.matches] == [("[SEP]", 0, 0), ("one", 0, 3), ("[SEP]", 0, 0)]
    assert by_hand("one", [(0, 0), (0, 3)], [0]).relevant_spans == ()


def test_as_json(model):
    found = model.explain("w1", "w1 w2")
    content = json.loads(json.dumps(found.to_dict()))
    assert set(content) == {"query", "text", "score", "matches", "relevant_spans", "special_score"}
    assert set(content["matches"][0]) == {
        "query_token", "token", "start", "end", "similarity", "query_start", "query_end", "shown"
    }  # fmt: skip


def test_only_words_of_the_query_are_shown_and_the_numbers_add_up():
    text, spans = "one two .", [(0, 3), (4, 7), (8, 9), (0, 0)]
    given = text, spans, [0, 0, 1, 2, 3, 1, 1, 2], [0.5, 0.25, 0.125, 1.0, 1.0, 0.75, 0.75, 1.0]
    found = by_hand(*given, query="ab?cd", masks=3)
    assert [match.shown for match in found.matches] == [True, True, *[False] * 6], "no mark of the query, no mark of the text, no mask"
    assert [(match.query_start, match.query_end) for match in found.matches] == [*((i, i + 1) for i in range(5)), *[(0, 0)] * 3]
    assert found.relevant_spans == ({"start": 0, "end": 3, "score": 0.75},) and found.weights().tolist() == [0.75] * 3 + [0.0] * 6
    assert found.score == 0.75 + found.special_score == 5.375
    everything = by_hand(*given, query="ab?cd", masks=3, special=True)
    assert [match.shown for match in everything.matches] == [*[True] * 4, False, *[True] * 3]
    assert everything.relevant_spans == ({"start": 0, "end": 9, "score": 4.375},)
    assert everything.score == 4.375 + everything.special_score == found.score


def test_an_explanation_of_a_model_tells_words_from_special_tokens(model):
    for special in (False, True):
        found = model.explain(" W1 , e\u0301 w3?", "w1 w2, w3", special=special)
        own = [(match.query_token, " W1 , e\u0301 w3?"[match.query_start : match.query_end]) for match in found.matches]
        words = [("w1", "W1"), (",", ","), ("e", "e\u0301"), ("w3", "w3"), ("?", "?")]
        assert [pair for pair in own if pair[1]] == words and len(own) == len(model.encode_queries(["w1 , e w3?"])[0])
        assert {match.query_token for match in found.matches if match.shown and not special} <= {"w1", "e", "w3"}
        assert all(match.shown == (match.end > 0) for match in found.matches if special)
        spans = sum(span["score"] for span in found.relevant_spans)
        assert found.score == pytest.approx(spans + found.special_score, abs=1e-9)
        assert found.special_score == pytest.approx(sum(match.similarity for match in found.matches if not match.shown), abs=1e-9)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.text, self.attributes = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.text += "\n" if tag == "br" else ""

    def handle_data(self, data):
        self.text += data


NASTY = "<script>alert('w1')</script> & \"w2\" <img src=x onerror=1>\nw3 --> ]]> &amp; w1"


def test_html_is_escaped_and_loads_nothing(model):
    part = model.explain("w1 <b>&\"'", NASTY).to_html()
    reader = Reader()
    reader.feed(part)
    assert set(reader.tags) <= {"div", "p", "b", "span", "br"} and set(reader.attributes) <= {"class", "style", "title"}
    assert NASTY in reader.text and "w1 <b>&\"'" in reader.text
    assert not re.search(r"http|src\s*=\s*\"|url\(|@import", part.replace("src=x", ""))


def test_shades_go_from_the_least_to_the_most_that_is_added():
    spans, similarities = [(0, 3), (4, 7), (8, 13)], [0.96, 0.84, 0.72]
    found = by_hand("one two three", spans, [0, 1, 2], similarities)
    shades = re.findall(r"rgba\(255,140,0,([\d.]+)\)\" title=\"([\d.]+)\"", found.to_html())
    assert shades == [("1.00", "0.960"), ("0.60", "0.840"), ("0.20", "0.720")]
    assert re.findall(r"48;5;(\d+)m", found.to_terminal()) == ["208", "221", "230"]
    for alone in (by_hand("one two", spans[:2], [1], [0.01]), by_hand("one two", spans[:2], [0, 1], [0.5, 0.5])):
        assert set(re.findall(r"rgba\(255,140,0,([\d.]+)\)", alone.to_html())) == {"1.00"}
        assert set(re.findall(r"48;5;(\d+)m", alone.to_terminal())) == {"208"}


CONTROLS = "w1 \x1b[2J\x07 w2\u202e\nw3\x9b 👩\u200d🚀"
PLAIN = "w1  [2J  w2 \nw3  👩\u200d🚀"


def test_a_terminal_gets_colours_and_none_of_the_texts_control_characters(model):
    found = model.explain("w1 w2", CONTROLS)
    *shown, last = found.to_terminal().split("\n")
    plain = re.sub(r"\x1b\[(?:0|30;48;5;\d{3})m", "", "\n".join(shown))
    assert "\n".join(shown) != plain == PLAIN
    share = found.special_score / found.score
    assert last == f"special tokens and punctuation, not shown: {found.special_score:.3f} of {found.score:.3f} ({share:.0%})"
    assert by_hand("one", [(0, 0), (0, 3)], [0]).to_terminal() == "one\nspecial tokens and punctuation, not shown: 1.000 of 1.000 (100%)"
    assert by_hand("one", [(0, 3)], [0], [-1.0]).to_terminal() == "one\nspecial tokens and punctuation, not shown: 0.000 of -1.000"


def test_a_terminal_without_colours_gets_brackets():
    found = by_hand("one two\nthree", [(0, 3), (4, 7), (8, 13)], [0, 2], [1.0, 0.5])
    assert found.to_terminal(color=False) == "[one] two\n[three]\nspecial tokens and punctuation, not shown: 0.000 of 1.500 (0%)"


def test_html_has_no_control_characters_and_says_what_special_tokens_add(model):
    found = model.explain("w1\x1b w2", CONTROLS)
    reader = Reader()
    reader.feed(found.to_html())
    assert PLAIN in reader.text and "w1  w2" in reader.text and "special tokens and punctuation, not shown: " in reader.text
    assert all(c.isprintable() or c == "\u200d" for c in found.to_html())


def test_a_page_is_complete_and_escaped(model):
    whole = page("<q>\x07", [("a&b", model.explain("w1", NASTY)), ("c", by_hand("one", [(0, 3)], [0]))])
    reader = Reader()
    reader.feed(whole)
    assert whole.startswith("<!doctype html>") and '<meta charset="utf-8"><title>&lt;q&gt; </title>' in whole
    assert reader.tags.count("h2") == 2 and "a&b" in reader.text and NASTY in reader.text and "script" not in reader.tags
    assert whole.count('<div class="late-interaction">') == 2 and "Nothing was found" in page("q", [])


def test_negative_similarities_are_not_shaded():
    found = by_hand("one two", [(0, 3), (4, 7)], [0, 1], [-1.0, 1.0])
    assert (found.weights() >= 0).all() and "<span" in found.to_html()


@pytest.mark.parametrize(("query", "text"), [("", "w1"), ("w1", " "), ("w1", 5), (None, "w1")])
def test_nothing_to_explain(model, query, text):
    with pytest.raises(InputError, match=r"ColBERT\.explain: (query|text)"):
        model.explain(query, text)


def test_vectors_of_other_settings(model):
    with pytest.raises(InputError, match=r"got 2 vectors for 4 tokens.*built with this model"):
        model.explain_by("w1", "w1", np.ones((2, 3), np.float32))
