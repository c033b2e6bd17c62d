from __future__ import annotations

import threading
import time

import pytest

import rerank_engine as rr
from rerank_engine.errors import Cancelled, InputError, ModelError
from rerank_engine.llm.chat import Ask


def ask(text: str, most: int = 5) -> Ask:
    return Ask(({"role": "user", "content": text},), most)


class Model:
    def __init__(self):
        self.seen = []

    def __call__(self, messages):
        self.seen.append(messages[0]["content"])
        messages[0]["content"] = "a caller's own copy"
        if messages[0] and self.seen[-1] == "broken":
            raise RuntimeError("no")
        return self.seen[-1].upper()


def test_equal_prompts_are_sent_once_and_remembered():
    model = Model()
    chat = rr.Chat(model)
    assert [reply.text for reply in chat.ask([ask("a"), ask("b"), ask("a")])] == ["A", "B", "A"]
    assert [reply.cached for reply in chat.ask([ask("b"), ask("c")])] == [True, False]
    assert sorted(model.seen) == ["a", "b", "c"] and (chat.usage.calls, chat.usage.cached) == (3, 2)
    assert not chat.ask([ask("a", most=6)])[0].cached, "another bound of the answer is another prompt"
    model.seen.clear()
    forgetful = rr.Chat(model, cache=0)
    forgetful.ask([ask("a")])
    forgetful.ask([ask("a")])
    assert model.seen == ["a", "a"]


def test_a_folder_remembers_across_processes_and_a_broken_file_is_asked_again(tmp_path):
    model = Model()
    rr.Chat(model, name="upper", cache=tmp_path).ask([ask("a")])
    (reply,) = rr.Chat(model, name="upper", cache=tmp_path).ask([ask("a")])
    assert reply.cached and reply.text == "A" and model.seen == ["a"]
    (file,) = tmp_path.iterdir()
    endless = file.read_text().replace('"prompt_tokens": ', '"prompt_tokens": Infinity, "other": ')
    for damage in ("", "{", "[]", '{"text": 5}', file.read_text()[:-3], "[" * 100_000, endless):
        file.write_text(damage)
        (reply,) = rr.Chat(model, name="upper", cache=tmp_path).ask([ask("a")])
        assert reply.text == "A"
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_a_folder_keeps_models_apart(tmp_path):
    first, second = (rr.Chat(lambda messages, text=text: text, name=text, cache=tmp_path) for text in ("one", "two"))
    assert [chat.ask([ask("a")])[0].text for chat in (first, second, first)] == ["one", "two", "one"]
    with pytest.raises(InputError, match="name="):
        rr.Chat(lambda messages: "x", cache=tmp_path)


def test_a_folder_that_goes_away_loses_no_answer(tmp_path):
    model = Model()
    chat = rr.Chat(model, name="upper", cache=tmp_path / "replies")
    (tmp_path / "replies").rmdir()
    assert chat.ask([ask("a")])[0].text == "A" and chat.usage.calls == 1
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", None, 1.5):
        with pytest.raises(InputError, match="cache"):
            rr.Chat(model, name="upper", cache=wrong)


def test_what_was_answered_before_a_cancellation_is_paid_and_kept():
    model, chat = Model(), None

    def cancelled():
        return len(model.seen) >= 2

    chat = rr.Chat(model)
    with rr.limited(cancelled=cancelled), pytest.raises(Cancelled):
        chat.ask([ask(text) for text in "abcdef"])
    assert chat.usage.calls == 2 and [reply.cached for reply in chat.ask([ask("a"), ask("b"), ask("f")])] == [True, True, False]


def test_no_more_prompts_at_a_time_than_asked_whoever_asks():
    going, most, lock = [0], [0], threading.Lock()

    def slow(messages):
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
        time.sleep(0.01)
        with lock:
            going[0] -= 1
        return "x"

    for concurrency in (1, 3):
        most[0] = 0
        chat = rr.Chat(slow, concurrency=concurrency, cache=0)
        threads = [threading.Thread(target=lambda: chat.ask([ask(str(i)) for i in range(4)])) for _ in range(4)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most[0] == concurrency


def test_a_failure_is_its_own_prompts_alone_and_is_not_remembered():
    chat = rr.Chat(Model())
    first, second = chat.ask([ask("broken"), ask("fine")])
    assert isinstance(first.error, ModelError) and "no" in str(first.error) and second.text == "FINE"
    assert chat.ask([ask("broken")])[0].error is not None and chat.usage.failed == 2


def test_a_function_that_gives_no_text_is_told():
    (reply,) = rr.Chat(lambda messages: None).ask([ask("a")])
    assert "a string" in str(reply.error)


def test_tokens_are_estimated_where_nobody_counts_them():
    chat = rr.Chat(Model(), price_in=1e6, count_tokens=lambda text: len(text.split()))
    (reply,) = chat.ask([ask("one two three")])
    assert (reply.prompt_tokens, reply.completion_tokens) == (3 + 8, 3) and chat.usage.cost == 11


@pytest.mark.parametrize("wrong", [{"cache": -1}, {"cache": True}, {"concurrency": 0}, {"context": 0}, {"price_in": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(InputError):
        rr.Chat(Model(), **wrong)
