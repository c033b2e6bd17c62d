"""The stages with models that are known: one that reads a number in each passage, perfect, biased, or lost."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.llm.chat import Reply
from rerank_engine.llm.parse import written


def passages_of(messages):
    return [message["content"].split("] ", 1)[1] for message in messages[3:-1:2]]


def perfect(messages):
    numbers = [int(text.split()[-1]) for text in passages_of(messages)]
    return written(np.argsort(np.negative(numbers)).tolist())


def choosing(messages):
    """Setwise and pairwise prompts: the label of the greatest number."""
    rows = re.findall(r'Passage ([A-Z]): "[^"]* (\d+)"', messages[-1]["content"])
    return "Passage " + max(rows, key=lambda row: int(row[1]))[0]


def candidates(n, seed=0):
    numbers = np.random.default_rng(seed).permutation(n)
    return rr.Ranking.in_order(rr.Corpus.from_texts([f"document of {number}" for number in numbers])), numbers


@pytest.mark.parametrize("method", ["sliding", "tournament"])
def test_a_perfect_model_puts_the_best_in_front(method):
    ranking, numbers = candidates(100)
    found = rr.Listwise(perfect, method=method)("q", ranking)
    assert numbers[found.ids][:10].tolist() == list(range(99, 89, -1))
    facts = found.trace[0].facts
    assert facts["ok"] == facts["calls"] == (9 if method == "sliding" else 5 + 3 + 2 + 1)
    assert found.scale == "rank" and found.scores.tolist() == list(range(100, 0, -1)) and found.trace[0].backend == "perfect"


def test_depth_and_what_stands_below():
    ranking, numbers = candidates(30)
    found = rr.Listwise(perfect, depth=10)("q", ranking)
    assert sorted(numbers[found.ids][:10].tolist(), reverse=True) == numbers[found.ids][:10].tolist()
    assert found.ids[10:].tolist() == ranking.ids[10:].tolist()
    empty = rr.Ranking.in_order(ranking.corpus, [])
    assert [len(one) for one in rr.Listwise(perfect).run(["a", "b"], [empty, ranking])] == [0, 30]


def test_many_queries_are_asked_side_by_side():
    seen = []

    class Sender:
        name, identity, concurrency, tells_likeliest = "perfect", "perfect", 4, False

        def count(self, text):
            return len(text)

        def send(self, ask, wanted):
            return Reply(perfect(ask.messages))

    chat = rr.Chat(Sender())
    asked = chat.ask
    chat.ask = lambda asks: seen.append(len(asks)) or asked(asks)
    lists = [candidates(n, n)[0] for n in (100, 40, 20, 5, 0)]
    found = rr.Listwise(chat).run(["a", "b", "c", "d", "e"], lists)
    assert seen == [4, 2, 2, 1, 1, 1, 1, 1, 1]
    for n, one in zip((100, 40, 20, 5, 0), found):
        numbers = candidates(n, n)[1]
        assert numbers[one.ids][:10].tolist() == list(range(n - 1, max(-1, n - 11), -1))


def test_a_bias_for_places_is_voted_down():
    """A model that swaps the first two it is shown, whatever they are, and else is right: with shuffles most votes are right."""

    def biased(messages):
        numbers = [int(text.split()[-1]) for text in passages_of(messages)]
        order = np.argsort(np.negative(numbers)).tolist()
        first, second = order.index(0), order.index(1)
        order[first], order[second] = order[second], order[first]
        return written(order)

    ranking, numbers = candidates(10, 3)
    right = list(range(9, -1, -1))
    assert numbers[rr.Listwise(biased)("q", ranking).ids].tolist() != right
    for consensus in ("kemeny", "borda"):
        found = rr.Listwise(biased, shuffles=15, consensus=consensus)("q", ranking)
        assert found.trace[0].facts["calls"] == 15
        assert consensus == "borda" or numbers[found.ids].tolist() == right
        assert np.abs(np.array(numbers[found.ids]) - right).max() <= 1
    again = rr.Listwise(biased, shuffles=15)("q", ranking)
    assert again.ids.tolist() == rr.Listwise(biased, shuffles=15)("q", ranking).ids.tolist()


@pytest.mark.parametrize("stage", [
    rr.Setwise(choosing), rr.Setwise(choosing, method="bubble"), rr.Setwise(choosing, ways=2, top=3),
    rr.Pairwise(choosing, depth=40), rr.Pairwise(choosing, method="bubble", depth=40), rr.Pairwise(choosing, method="all", depth=40),
], ids=repr)  # fmt: skip
def test_setwise_and_pairwise(stage):
    ranking, numbers = candidates(40)
    found = stage("q", ranking)
    top = min(10, stage.top)
    assert numbers[found.ids][:top].tolist() == list(range(39, 39 - top, -1)) and found.trace[0].facts["ok"] > 0
    if getattr(stage, "method", "") == "all":
        assert found.trace[0].facts["calls"] == 40 * 39


def test_who_wins_in_one_place_alone_has_not_won():
    ranking, _ = candidates(6)
    for method in ("all", "heap", "bubble"):
        found = rr.Pairwise(lambda messages: "Passage A", method=method)("q", ranking)
        assert found.ids.tolist() == ranking.ids.tolist()
        assert rr.Pairwise(lambda messages: "I don't know", method=method)("q", ranking).ids.tolist() == ranking.ids.tolist()


def test_an_order_that_is_right_is_left_as_it_is():
    ranking = rr.Ranking.in_order(rr.Corpus.from_texts([f"document of {n}" for n in range(30, 0, -1)]))
    for stage in (rr.Listwise(perfect), rr.Listwise(perfect, method="tournament"), rr.Setwise(choosing), rr.Pairwise(choosing, depth=30)):
        assert stage("q", ranking).ids.tolist() == list(range(30))


def test_a_dry_run_sends_nothing_and_counts_all():
    sent = []
    chat = rr.Chat(lambda messages: sent.append(messages) or perfect(messages), price_in=1.0, price_out=10.0)
    ranking, _ = candidates(100)
    stage = rr.Listwise(chat)
    told = stage.dry_run(["q one", "q two"], [ranking, ranking])
    assert not sent and told.calls == 18 and len(told.prompts) == 9
    assert "18 calls" in str(told) and "RankGPT" in str(told)
    found = stage.run(["q one", "q two"], [ranking, ranking])
    facts = [one.facts for one in found]
    assert sum(one["calls"] for one in facts) == told.calls == len(sent)
    assert 0.9 < sum(one["prompt_tokens"] for one in facts) / told.prompt_tokens < 1.1
    assert sum(one["completion_tokens"] for one in facts) <= told.completion_tokens
    assert sum(one["cost"] for one in facts) <= told.cost * 1.05
    assert told.cost == pytest.approx(chat.cost(told.prompt_tokens, told.completion_tokens))
    assert rr.Setwise(chat).dry_run(["q"], [ranking]).calls > 30 and len(sent) == 18
    with pytest.raises(InputError, match="one ranking per query"):
        stage.dry_run(["q"], [])


def test_progress_reaches_its_end():
    told = []
    ranking, _ = candidates(60)
    for stage in (rr.Listwise(perfect), rr.Setwise(choosing, top=3)):
        told.clear()
        with rr.limited(progress=lambda done, total: told.append((done, total))):
            stage("q", ranking)
        assert told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(done for done, _ in told)


def test_an_answer_that_comes_with_the_deadline_counts():
    def slow(messages):
        time.sleep(0.15)
        return "[3] > [2] > [1]"

    found = rr.Listwise(slow)("q", ["a", "b", "c"], deadline_ms=100)
    assert found.ids.tolist() == [2, 1, 0] and not found.unfinished


def test_a_document_alone_is_not_asked_about():
    asked = []
    stage = rr.Listwise(lambda messages: asked.append(messages) or "[1]")
    assert stage("q", ["a"]).ids.tolist() == [0] and not asked
    ranking, numbers = candidates(21)
    found = rr.Listwise(perfect, method="tournament", step=1)("q", ranking)
    assert numbers[found.ids][:19].tolist() == list(range(20, 1, -1)) and found.trace[0].facts["calls"] == 2


def test_prompts_are_made_while_there_is_time_for_them():
    ranking = rr.Ranking.in_order(rr.Corpus.from_texts([f"some document {i} " * 40 for i in range(150)]))
    start = time.monotonic()
    found = rr.Pairwise(lambda messages: time.sleep(0.01) or "Passage A", method="all", depth=150)("q", ranking, deadline_ms=200)
    assert time.monotonic() - start < 3 and found.unfinished and found.ids.tolist() == list(range(150))


def test_a_query_that_does_not_fit_is_named():
    chat = rr.Chat(perfect, context=300, count_tokens=lambda text: len(text.split()))
    ranking, _ = candidates(3)
    with pytest.raises(InputError, match=r"query 'long'.*room for"):
        rr.Listwise(chat).run([rr.Query("q", "short"), rr.Query("q " * 400, "long")], [ranking, ranking])


def test_who_thinks_first_may_write_more():
    seen = []

    class Sender:
        name, identity, concurrency, tells_likeliest = "thinks", "", 1, False

        def count(self, text):
            return len(text)

        def send(self, ask, wanted):
            seen.append(ask.most)
            return Reply("<think>hm</think>[2] > [1]")

    rr.Listwise(rr.Chat(Sender()), answer_tokens=4000)("q", ["a", "b"])
    rr.Setwise(rr.Chat(Sender()), answer_tokens=3000)("q", ["a", "b"])
    rr.Pairwise(rr.Chat(Sender()), answer_tokens=2000)("q", ["a", "b"])
    assert seen == [4000, 3000, 2000, 2000]


def test_in_a_pipeline_a_deadline_that_is_over_leaves_the_list():
    index = rr.BM25Index.build(rr.Corpus.from_texts([f"tea number {n}" for n in range(30)]))
    pipeline = rr.BM25(index) >> rr.Listwise(perfect) >> rr.Top(5)
    assert [int(text.split()[-1]) for text in (doc.passage for doc in pipeline("tea").documents)] == [29, 28, 27, 26, 25]
    late = pipeline("tea", deadline_ms=0)
    assert any(step.name == "Listwise" for step in late.unfinished)


@pytest.mark.parametrize(
    "wrong",
    [
        {"template": "nope"}, {"method": "merge"}, {"window": 1}, {"window": 0}, {"step": 21}, {"step": 0}, {"passes": 0}, {"depth": 0},
        {"shuffles": 0}, {"consensus": "mean"}, {"failed": "ignore"}, {"template": "first"}, {"logits": True},
        {"method": "tournament", "step": 20}, {"seed": -1}, {"seed": None}, {"seed": "a"}, {"answer_tokens": 0},
    ],
)  # fmt: skip
def test_bad_arguments(wrong):
    with pytest.raises(InputError):
        rr.Listwise(perfect, **wrong)


def test_bad_arguments_of_the_others():
    for wrong in ({"ways": 1}, {"ways": 27}, {"top": 0}, {"method": "quick"}, {"logits": True}):
        with pytest.raises(InputError):
            rr.Setwise(choosing, **wrong)
    for wrong in ({"method": "merge"}, {"depth": 0}, {"failed": ""}):
        with pytest.raises(InputError):
            rr.Pairwise(choosing, **wrong)


def test_the_examples_of_the_document_run():
    text = (Path(__file__).resolve().parents[2] / "docs" / "listwise.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/listwise.md", "exec"), {})  # noqa: S102 (nothing is sent: a dry run)
