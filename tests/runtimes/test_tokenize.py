from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from models import CLS, PAD, SEP, UNK, VOCABULARY, pair_ids, tokenizer, word_ids, words

from rerank_engine.errors import CorruptModelError, InputError, MissingDependency, QueryTooLongError
from rerank_engine.runtimes.tokenize import Tokenizer

LIMIT = 12


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer().save(str(file))
    return file


@pytest.fixture(scope="module")
def ours(path):
    return Tokenizer(path, LIMIT)


def rows(tokens):
    return [(ids.tolist(), types.tolist(), cut) for ids, types, cut in zip(tokens.ids, tokens.types, tokens.dropped.tolist())]


PAIRS = [("w1 w2", "w3 w4 w5"), ("w1", "w2"), ("w1", ""), ("w9 huh", "huh w2 w2"), (words(0, 4), words(7, 5)), ("", "")]


def test_short_pairs_are_what_tokenizers_itself_makes_of_them(ours):
    reference = tokenizer()
    tokens = ours.encode_pairs(PAIRS)
    assert tokens.ids.values.dtype == tokens.types.values.dtype == np.int64 and tokens.dropped.dtype == np.int32
    for pair, (ids, types, cut) in zip(PAIRS, rows(tokens)):
        encoding = reference.encode(*pair)
        assert (ids, types, cut) == (encoding.ids, encoding.type_ids, 0)
        assert (ids, types) == pair_ids(*pair)


def test_short_single_texts(ours):
    texts = ["w1", "", words(3, LIMIT - 2), "huh  w1\tw2\n"]
    want = [([CLS, *word_ids(text), SEP], [0] * (len(word_ids(text)) + 2), 0) for text in texts]
    assert rows(ours.encode(texts)) == want == rows(ours.encode(texts, queries=True))
    assert word_ids("huh  w1\tw2\n") == [UNK, VOCABULARY["w1"], VOCABULARY["w2"]]


@pytest.mark.parametrize("query", [1, 2, 3, 7])
@pytest.mark.parametrize("document", range(13))
def test_only_the_document_is_cut_and_every_token_counted(ours, query, document):
    """3 special tokens: `LIMIT - 3 - query` tokens of the document fit, one or more for these queries."""
    fits = LIMIT - 3 - query
    question, text = words(0, query), words(20, document)
    ids, types, cut = rows(ours.encode_pairs([(question, text)]))[0]
    assert cut == max(0, document - fits)
    assert (ids, types) == pair_ids(question, words(20, min(document, fits)))
    assert len(ids) == min(LIMIT, 3 + query + document)


def test_the_limits(ours):
    exactly, over = words(20, LIMIT - 5), words(20, LIMIT - 4)
    assert rows(ours.encode_pairs([("w0 w1", exactly)])) == [(*pair_ids("w0 w1", exactly), 0)]
    assert rows(ours.encode_pairs([("w0 w1", over)])) == [(*pair_ids("w0 w1", exactly), 1)]
    one_left = words(0, LIMIT - 4)
    assert rows(ours.encode_pairs([(one_left, words(20, 5))])) == [(*pair_ids(one_left, "w20"), 4)]


@pytest.mark.parametrize("document", ["w20", words(20, 2), words(20, 50)])
def test_a_query_that_leaves_no_document_token_is_refused(ours, document):
    full = words(0, LIMIT - 3)
    with pytest.raises(QueryTooLongError, match=f"query of input 1: got {LIMIT} tokens.* fewer than {LIMIT}.*never cut"):
        ours.encode_pairs([("w1", document), (full, document)])
    with pytest.raises(QueryTooLongError):
        ours.encode_pairs([(words(0, 50), document)])


def test_a_query_that_just_fits_with_an_empty_document(ours):
    full = words(0, LIMIT - 3)
    assert rows(ours.encode_pairs([(full, "")])) == [(*pair_ids(full, ""), 0)]
    with pytest.raises(QueryTooLongError):
        ours.encode_pairs([(words(0, LIMIT - 2), "")])


def test_single_documents_lose_their_end_and_queries_raise(ours):
    over = words(0, LIMIT)
    want = ([CLS, *word_ids(words(0, LIMIT - 2)), SEP], [0] * LIMIT, 2)
    assert rows(ours.encode(["w1", over])) == [([CLS, VOCABULARY["w1"], SEP], [0] * 3, 0), want]
    with pytest.raises(QueryTooLongError, match=f"query of input 1: got {LIMIT + 2} tokens.* at most {LIMIT}"):
        ours.encode(["w1", over], queries=True)
    assert ours.encode([words(0, LIMIT - 2)], queries=True).ids.lengths.tolist() == [LIMIT]


def test_the_prompt_is_part_of_the_text_and_of_its_length(ours):
    assert rows(ours.encode(["w1"], prompt="w2 w3 ")) == rows(ours.encode(["w2 w3 w1"]))
    assert ours.encode([words(0, LIMIT - 2)], prompt="w2 w3 ").dropped.tolist() == [2]
    with pytest.raises(QueryTooLongError):
        ours.encode([words(0, LIMIT - 2)], prompt="w2 ", queries=True)


@pytest.mark.parametrize("method", ["encode", "encode_pairs"])
def test_nothing_in_nothing_out(ours, method):
    tokens = getattr(ours, method)([])
    assert len(tokens.ids) == len(tokens.types) == len(tokens.dropped) == 0
    assert tokens.ids.values.dtype == np.int64


def test_a_template_like_that_of_roberta(tmp_path):
    """Segments all 0, two separators, and another place for the cut: <s> query </s> </s> document </s>."""
    theirs = tokenizer()
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    theirs.save(str(tmp_path / "tokenizer.json"))
    tokens = Tokenizer(tmp_path / "tokenizer.json", LIMIT).encode_pairs([("w0 w1", words(20, 9))])
    want = [CLS, *word_ids("w0 w1"), SEP, SEP, *word_ids(words(20, 6)), SEP]
    assert rows(tokens) == [(want, [0] * LIMIT, 3)]


def test_padding_and_truncation_of_the_file_are_switched_off(tmp_path, ours):
    theirs = tokenizer()
    theirs.enable_padding(pad_id=PAD, pad_token="[PAD]", length=30)
    theirs.enable_truncation(6)
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert len(theirs.encode("w1").ids) == 30 and "w9" not in theirs.encode(words(0, 10)).tokens
    loaded = Tokenizer(tmp_path / "tokenizer.json", LIMIT)
    pairs = [*PAIRS, ("w0", words(20, 30))]
    assert rows(loaded.encode_pairs(pairs)) == rows(ours.encode_pairs(pairs))
    assert rows(loaded.encode([words(0, 9)])) == rows(ours.encode([words(0, 9)]))


def test_the_order_and_company_of_texts_do_not_matter(ours):
    assert rows(ours.encode_pairs(PAIRS[::-1])) == rows(ours.encode_pairs(PAIRS))[::-1]
    assert rows(ours.encode_pairs(PAIRS)) == [rows(ours.encode_pairs([pair]))[0] for pair in PAIRS]


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"model": {"type": "Nothing"}}', b'{"version": "1.0"}'])
def test_a_corrupt_file(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CorruptModelError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path / "tokenizer.json", LIMIT)


def test_a_truncated_file(tmp_path, path):
    data = path.read_bytes()
    for n in range(0, len(data), 61):
        (tmp_path / "tokenizer.json").write_bytes(data[:n])
        with pytest.raises(CorruptModelError):
            Tokenizer(tmp_path / "tokenizer.json", LIMIT)


@pytest.mark.parametrize("bad", [5, None, b"w1", ["w1", "w2"], ("w1", "w2")])
@pytest.mark.parametrize("prompt", ["", "w1 "])
def test_what_is_not_a_string_is_named(ours, bad, prompt):
    with pytest.raises(InputError, match=f"text of input 2: got {type(bad).__name__}"):
        ours.encode(["w1", "w2", bad], prompt=prompt)


@pytest.mark.parametrize("bad", [5, None, b"w1", ["w1", "w2"]])
def test_what_is_not_a_string_in_a_pair_is_named(ours, bad):
    with pytest.raises(InputError, match=f"text of input 1: got {type(bad).__name__}"):
        ours.encode_pairs([("w1", "w2"), ("w1", bad)])


def test_a_lone_surrogate_is_named_and_can_be_mended(ours):
    with pytest.raises(InputError, match=r"text of input 1: got a lone surrogate at 3.*'replace'"):
        ours.encode(["w1", "w2 \ud800"])
    with pytest.raises(InputError, match="text of input 0: got a lone surrogate at 0"):
        ours.encode_pairs([("w1", "\udfff"), ("w1", "w2")])
    assert rows(ours.encode(["w2 \ud800".encode("utf-8", "replace").decode()])) == rows(ours.encode(["w2 ?"]))


def test_an_empty_text_without_special_tokens_leaves_nothing_to_run(tmp_path):
    theirs = tokenizer()
    theirs.post_processor = None
    theirs.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer(tmp_path / "tokenizer.json", LIMIT)
    assert rows(loaded.encode(["w1"])) == [([VOCABULARY["w1"]], [0], 0)]
    with pytest.raises(InputError, match="text of input 1: got no token"):
        loaded.encode(["w1", ""])


def test_vocabulary_size_is_one_more_than_the_highest_token(tmp_path, ours):
    assert ours.vocabulary_size == len(VOCABULARY)
    theirs = tokenizer()
    theirs.model = tokenizers.models.WordLevel({**VOCABULARY, "far": 99}, unk_token="[UNK]")
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path / "tokenizer.json", LIMIT).vocabulary_size == 100


def test_without_the_package(path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingDependency, match=r"the extra \[cpu\]"):
        Tokenizer(path, LIMIT)


def test_a_marker_stands_behind_the_first_token_and_counts(ours):
    want = [CLS, UNK, *word_ids("w1 w2"), SEP]
    assert rows(ours.encode(["w1 w2"], marker=UNK)) == [(want, [0] * 5, 0)]
    assert rows(ours.encode([""], marker=UNK, queries=True)) == [([CLS, UNK, SEP], [0] * 3, 0)]
    tokens = ours.encode([words(0, LIMIT - 3), words(0, LIMIT)], marker=UNK)
    assert tokens.ids.lengths.tolist() == [LIMIT] * 2 and tokens.dropped.tolist() == [0, 3]
    assert tokens.ids[0].tolist() == tokens.ids[1].tolist()
    assert ours.encode([words(0, LIMIT - 3)], marker=UNK, queries=True).ids.lengths.tolist() == [LIMIT]
    with pytest.raises(QueryTooLongError, match=f"got {LIMIT} tokens"):
        ours.encode([words(0, LIMIT - 2)], marker=UNK, queries=True)


def test_a_limit_below_the_models(ours):
    tokens = ours.encode([words(0, 9), words(0, 2)], limit=5)
    assert tokens.dropped.tolist() == [6, 0] and tokens.ids[0].tolist() == [CLS, *word_ids(words(0, 3)), SEP]
    assert ours.encode([words(0, 9)], limit=5, marker=UNK).ids[0].tolist() == [CLS, UNK, *word_ids(words(0, 2)), SEP]


@pytest.mark.parametrize("marker", [None, UNK])
@pytest.mark.parametrize("limit", [None, 4, 6])
@pytest.mark.parametrize("text", ["", "w1", " w1  w22 huh", words(0, 30)])
def test_spans_belong_to_the_tokens_of_encode(ours, marker, limit, text):
    ids = ours.encode([text], marker=marker, limit=limit).ids[0].tolist()
    spans = ours.spans(text, marker="" if marker is None else "[UNK]", limit=limit)
    assert [VOCABULARY[token] for token, _, _ in spans] == ids
    for token, start, end in spans:
        assert (start, end) == (0, 0) if token in ("[CLS]", "[SEP]") or end == 0 else text[start:end] in (token, "huh")
    assert [text[start:end] for _, start, end in spans if end] == text.split()[: len([span for span in spans if span[2]])]


def test_the_first_token_of_a_text(ours):
    assert ours.first_token("w3 w4") == VOCABULARY["w3"] and ours.first_token("huh") == UNK and ours.first_token("") is None
    assert ours.token_id("w3") == VOCABULARY["w3"] and ours.token_id("huh") is None
