from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_engine.llm.parse import identifiers_of, order_by, read_choice, read_order, written

REPLAY = Path(__file__).resolve().parents[3] / "shared" / "data" / "listwise-replay"


@pytest.mark.parametrize(
    ("text", "order", "kind", "counts"),
    [
        ("[2] > [3] > [1]", [1, 2, 0], "ok", (0, 0, 0)),
        ("  [2]>[3]   > [1]\n", [1, 2, 0], "ok", (0, 0, 0)),
        ("[2] > [3] > [1].", [1, 2, 0], "malformed", (0, 0, 0)),
        ("[3]", [2, 0, 1], "malformed", (0, 0, 2)),
        ("[2] > [2] > [9] > [0] > [1] > [3]", [1, 0, 2], "malformed", (1, 2, 0)),
        ("3, 1 and 2", [2, 0, 1], "malformed", (0, 0, 0)),
        ("[3, 1, 2]", [2, 0, 1], "malformed", (0, 0, 0)),
        ("1. [2] > [1]", [0, 1, 2], "malformed", (1, 0, 1)),  # as rank_llm: no words, all numbers count
        ("Here are the 3 passages: [2] > [1]", [1, 0, 2], "malformed", (0, 0, 1)),
        ("<think>maybe [3] or 2</think>[1] > [2] > [3]", [0, 1, 2], "ok", (0, 0, 0)),
        ("<think>[3] looks best, but", [0, 1, 2], "unreadable", (0, 0, 3)),
        ("perhaps [1], then 2</think>[3] > [2] > [1]", [2, 1, 0], "ok", (0, 0, 0)),  # the prompt had opened it
        ("1. [3]\n2. [1]\n3. [2]", [2, 0, 1], "malformed", (0, 0, 0)),
        ("1) Passage [3], the best\n2) Passage [1]", [2, 0, 1], "malformed", (0, 0, 1)),
        ("", [0, 1, 2], "unreadable", (0, 0, 3)),
        ("Home / News / Industry", [0, 1, 2], "unreadable", (0, 0, 3)),
        ("I'm sorry, but I can't help with that.", [0, 1, 2], "refused", (0, 0, 3)),
        ("9" * 5000, [0, 1, 2], "unreadable", (0, 1, 3)),
        ("[\u0663] > [\uff12]", [0, 1, 2], "unreadable", (0, 0, 3)),  # digits of other scripts are not those that were given
    ],
)
def test_numbers(text, order, kind, counts):
    found = read_order(text, 3)
    assert (found.order.tolist(), found.kind) == (order, kind)
    assert (found.repeated, found.invented, found.missing) == counts


@pytest.mark.parametrize(
    ("text", "order", "kind"),
    [
        ("[B] > [C] > [A]", [1, 2, 0], "ok"),
        ("B, C, A", [1, 2, 0], "malformed"),
        ("Passage C, Passage A", [2, 0, 1], "malformed"),
        ("I think A nice order is [C] > [B]", [2, 1, 0], "malformed"),
        ("A dog is what I like", [0, 1, 2], "unreadable"),
        ("[Z] > [B]", [1, 0, 2], "malformed"),
    ],
)
def test_letters(text, order, kind):
    found = read_order(text, 3, "letters")
    assert (found.order.tolist(), found.kind) == (order, kind)


@pytest.mark.parametrize(
    ("text", "first", "kind"),
    [
        ("Passage B", 1, "ok"), ("B", 1, "ok"), ("[C]", 2, "ok"), (" 'B' ", 1, "ok"), ("passage B.", 1, "ok"),
        ("The most relevant is Passage B because A is not", 1, "malformed"), ("B. It says so", 1, "malformed"),
        ("passage b", 1, "ok"), ("PASSAGE B", 1, "ok"), ("Passage: B", 1, "malformed"), ("Passage (B)", 1, "ok"),
        ("**Passage B**", 1, "ok"),
        ("Answer: B", 1, "malformed"), ("The most relevant passage is B", 1, "malformed"), ("A", 0, "ok"), ("(C).", 2, "ok"),
        ("Passage A is less relevant than Passage B", 0, "malformed"), ("Passage A or Passage B", 0, "malformed"),
        ("Perhaps Passage A. </think>Passage C", 2, "ok"), ("!" * 200_000, 0, "unreadable"),
        ("Passage Z", 0, "malformed"), ("A bird told me", 0, "unreadable"), ("", 0, "unreadable"), ("I cannot choose", 0, "refused"),
        ("<think>Passage C</think>Passage B", 1, "ok"),
    ],
)  # fmt: skip
def test_choices(text, first, kind):
    found = read_choice(text, 3)
    assert (int(found.order[0]), found.kind) == (first, kind)
    assert sorted(found.order.tolist()) == [0, 1, 2] and (np.diff(found.order[1:]) > 0).all()


def test_probabilities_order_and_the_rest_follows():
    found = order_by([(" B", -0.5), ("A", -3.0), ("[D]", -1.0), ("B", -0.1), ("x", 0.0), ("AB", 0.0)], 5)
    assert found.order.tolist() == [1, 3, 0, 2, 4] and (found.kind, found.missing) == ("malformed", 2)
    assert order_by([("A", -1.0), ("B", -1.0)], 2).order.tolist() == [0, 1]
    assert order_by([("12", -1.0), ("2", -2.0)], 12, "numbers").order.tolist()[:3] == [11, 1, 0]


def holds(text: str, n: int, identifiers: str) -> None:
    found = read_order(text, n, identifiers)
    assert sorted(found.order.tolist()) == list(range(n))
    again = read_order(written(found.order.tolist(), identifiers), n, identifiers)
    assert again.order.tolist() == found.order.tolist() and (again.kind == "ok" or n == 0)
    assert found.missing <= n and (found.kind != "ok" or text.count("[") == n)
    if n <= 26:
        assert sorted(read_choice(text, n).order.tolist()) == list(range(n))


@settings(derandomize=True, deadline=None, max_examples=2000)
@given(st.text() | st.text(alphabet="[]> 0123456789ABCZ.,\n<think/>"), st.integers(0, 26), st.sampled_from(["numbers", "letters"]))
def test_any_text_is_an_order(text, n, identifiers):
    holds(text, n, identifiers)


def test_100_000_garbled_answers_of_models_are_orders():
    """Real ones, where they are here, and made-up ones, cut, doubled, mixed with each other and with noise."""
    rng = np.random.default_rng(0)
    real = [
        json.loads(line)["response"]
        for path in sorted(REPLAY.glob("*/responses.jsonl.gz"))
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
    ]
    texts = [*real, *(written(rng.permutation(20).tolist()) for _ in range(200)), "I'm sorry, I cannot", "Ranking:\n1) [4]\n2) [2]"]
    noise = [
        "[",
        "]",
        " > ",
        "[21]",
        "[0]",
        "-",
        "1.",
        "\n",
        "<think>",
        "</think>",
        "\u202e",
        "[A]",
        "999999999999",
        "[[3]]",
        "\ud800",
        "\x00",
    ]
    for _ in range(100_000):
        text = texts[rng.integers(len(texts))]
        for _ in range(rng.integers(1, 4)):
            at, kind = int(rng.integers(len(text) + 1)), rng.integers(4)
            if kind == 0:
                text = text[:at]
            elif kind == 1:
                text = text[:at] + noise[rng.integers(len(noise))] + text[at:]
            elif kind == 2:
                text = text[at:] + texts[rng.integers(len(texts))][:at]
            else:
                text = text[:at] + text[at + int(rng.integers(1, 9)) :]
        n = int(rng.integers(1, 27))
        found = read_order(text, n)
        assert sorted(found.order.tolist()) == list(range(n)), text
        assert read_order(written(found.order.tolist()), n).order.tolist() == found.order.tolist(), text


def test_identifiers():
    assert identifiers_of(3, "numbers") == ["1", "2", "3"] and identifiers_of(3, "letters") == ["A", "B", "C"]
    assert written([1, 0]) == "[2] > [1]" and written([], "letters") == ""
