"""Long documents: which passages there are, and what becomes of their logits, against a loop over the words."""

from __future__ import annotations

import numpy as np
import pytest
from counting import counting_fixture  # noqa: F401
from models import cross, logits_of, words, write_model

import rerank_engine as rr
from rerank_engine.core import LOWEST
from rerank_engine.errors import InputError, NonFiniteError, UnsupportedModelError

QUERY = "w1 w2"


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = write_model(tmp_path_factory.mktemp("passages"), cross())
    return lambda **options: rr.load(folder, device="cpu", **options)


def windows(text, size, step):
    """The passages of a text, by the definition: a new one each `step` words, the last where the text ends."""
    tokens, out, start = text.split(), [], 0
    while start + size < len(tokens):
        out.append(" ".join(tokens[start : start + size]))
        start += step
    return [*out, " ".join(tokens[max(0, len(tokens) - size) :])]


LONG = [words(3, 60), "w4", words(9, 27), words(50, 28), words(1, 33), " ", words(3, 60)]


@pytest.mark.parametrize("aggregate", ["max", "mean", "top1-mean", "top2-mean", "top9-mean"])
@pytest.mark.parametrize(("window", "stride"), [(None, None), (10, 10), (10, 3), (10, None), (1, 1), (99, None), (27, 26)])
def test_passages_and_how_they_are_joined(load, window, stride, aggregate):
    model = load(long="chunk", window=window, stride=stride, aggregate=aggregate)
    scores = model.predict([(QUERY, text) for text in LONG])
    size = min(window or 27, 27)
    want, counts = [], []
    for text in LONG:
        logits = sorted((float(logits_of(QUERY, part)[0]) for part in windows(text, size, stride or max(1, size // 2))), reverse=True)
        best = {"max": 1, "mean": len(logits)}.get(aggregate) or int(aggregate[3])
        want.append(np.float32(sum(logits[:best]) / len(logits[:best])) if text.strip() else LOWEST)
        counts.append(len(logits) if text.strip() else 0)
    assert scores.values.tolist() == want and scores.columns["chunks"].tolist() == counts
    assert scores.columns["truncated_tokens"].tolist() == [0] * len(LONG)


@pytest.mark.parametrize(("window", "room"), [(10, 10), (27, 27), (99, 27), (None, 27), (7, 7)])
def test_only_the_first_passage(load, window, room):
    short = load(long="chunk", window=window, aggregate="first")
    scores = short.predict([(QUERY, text) for text in LONG])
    firsts = [" ".join(text.split()[:room]) for text in LONG]
    assert scores.values.tolist() == [logits_of(QUERY, first)[0] if first else LOWEST for first in firsts]
    assert scores.columns["chunks"].tolist() == [int(bool(first)) for first in firsts]
    assert scores.columns["truncated_tokens"].tolist() == [max(0, len(text.split()) - room) for text in LONG]
    if window is not None:
        model = load()
        other = model.shortened(window)
        assert other.predict([(QUERY, text) for text in LONG]).values.tobytes() == scores.values.tobytes()
        assert model.long == "truncate" and f"first of {window} tokens" in repr(other) and "first" not in repr(model)


def test_what_fits_is_read_whole_or_refused(load):
    model = load(long="error")
    assert model.predict([(QUERY, words(0, 27))]).values == logits_of(QUERY, words(0, 27))[0]
    with pytest.raises(InputError, match="document of input 2: got 3 tokens too many"):
        model.predict([(QUERY, " "), (QUERY, "w1"), (QUERY, words(0, 30))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"long": "cut"}, "long: got cut; expected"),
        ({"window": 5}, "window: got 5.*long='chunk'"),
        ({"long": "error", "stride": 5}, "stride"),
        ({"long": "chunk", "window": 0}, "window"),
        ({"long": "chunk", "window": 5, "stride": 6}, "at most the window, 5"),
        ({"aggregate": "median"}, "aggregate: got median; expected max, first"),
        ({"aggregate": "top0-mean"}, "aggregate"),
        ({"cache": 1.5}, "cache"),
        ({"cache": True}, "cache"),
        ({"cache": 5}, "at least .* one entry"),
    ],
)
def test_options_that_make_no_sense(counting, options, message):
    with pytest.raises(InputError, match=message):
        counting(**options)


def test_passages_need_a_template(counting):
    plain = counting()
    plain._pairs.concatenates = False
    with pytest.raises(UnsupportedModelError, match=r"long='chunk'.*use 'truncate'"):
        plain.shortened(5)
    with pytest.raises(UnsupportedModelError, match="long='chunk'"):
        counting(long="chunk", pairs=plain._pairs)


def test_a_broken_passage_breaks_its_document(load):
    model = load(long="chunk", window=5, stride=5)
    with pytest.raises(NonFiniteError, match="output of input 2"):
        model.predict([(QUERY, "w1"), (QUERY, ""), (QUERY, words(0, 12) + " nan " + words(3, 4))])
    assert model.shortened(5).predict([(QUERY, words(0, 12) + " nan")]).values == logits_of(QUERY, words(0, 5))[0], "it is not read"


def test_passages_do_not_depend_on_company(load):
    model = load(long="chunk", window=9, stride=4, aggregate="top2-mean")
    pairs = [(query, text) for query in (QUERY, "w7") for text in LONG]
    whole, order = model.predict(pairs), np.random.default_rng(4).permutation(len(pairs))
    mixed = model.predict([pairs[i] for i in order])
    assert mixed.values.tobytes() == whole.values[order].tobytes()
    assert [model.predict([pair]).values[0] for pair in pairs] == whole.values.tolist()
