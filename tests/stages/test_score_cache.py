from __future__ import annotations

import copy
import gc
import threading
import tracemalloc

import numpy as np
import pytest
from counting import Counting, counting_fixture  # noqa: F401
from models import words

import rerank_engine as rr
from rerank_engine.errors import InputError
from rerank_engine.stages.cross import CrossEncoder
from rerank_engine.stages.score_cache import ENTRY_BYTES, ScoreCache

QUERY = "w1 w2"
TEXTS = [words(5, 3), "w8", words(20, 27), words(9, 1), words(30, 12), words(5, 3)]


def key(i: int) -> bytes:
    return i.to_bytes(16, "big")


def test_what_was_not_asked_for_longest_goes_first():
    cache = ScoreCache(3 * ENTRY_BYTES + ENTRY_BYTES - 1)
    cache.put([key(1), key(2), key(3)], np.float32([0.1, 0.2, 0.3]))
    assert cache.find([key(1)]).tolist() == [np.float32(0.1)]
    cache.put([key(4)], np.float32([0.4]))
    assert np.isnan(cache.find([key(i) for i in (1, 2, 3, 4, 5)])).tolist() == [False, True, False, False, True]
    cache.put([key(1)], np.float32([0.5]))
    cache.put([key(6), key(7)], np.float32([0.6, 0.7]))
    assert cache.find([key(1), key(7), key(3)])[:2].tolist() == np.float32([0.5, 0.7]).tolist() and len(cache) == 3
    assert (cache.hits, cache.misses) == (1 + 3 + 2, 2 + 1)
    assert repr(cache) == "ScoreCache(3 of 3 scores, 6 hits, 3 misses)"


def test_every_float32_comes_back_and_what_is_no_score_is_not_kept():
    values = np.float32([1e-45, -0.0, 3.4e38, 0.1, np.nan, np.inf, -np.inf])
    cache = ScoreCache(1 << 20)
    cache.put([key(i) for i in range(7)], values)
    assert cache.find([key(i) for i in range(4)]).tobytes() == values[:4].tobytes() and len(cache) == 4


def test_the_bound_is_one_of_bytes():
    """Also while the dictionary grows and holds its old table beside the new one, and while entries come and go."""
    most = 4000 * ENTRY_BYTES
    cache, values = ScoreCache(most), np.arange(100, dtype=np.float32) + 0.5
    gc.collect()
    tracemalloc.start()
    try:
        for start in range(0, 20_000, 100):
            cache.put([key(i) for i in range(start, start + 100)], values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) == 4000 and most / 4 < peak < most


def test_threads():
    cache, wrong = ScoreCache(50 * ENTRY_BYTES), []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            numbers = rng.integers(0, 100, 8)
            keys = [key(int(i)) for i in numbers]
            cache.put(keys, numbers.astype(np.float32))
            found = cache.find(keys)
            known = ~np.isnan(found)
            if (found[known] != numbers[known]).any() or len(cache) > 50:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(cache) == 50 and cache.hits + cache.misses == 4 * 200 * 8


@pytest.mark.parametrize("most", [0, -1, 1.5, True, None, ENTRY_BYTES - 1])
def test_a_bound_that_is_none(most):
    with pytest.raises(InputError, match="cache"):
        ScoreCache(most)


def test_repeats_come_from_the_cache(counting):
    model = counting(cache=1 << 20)
    pairs = [(QUERY, text) for text in TEXTS]
    first = model.predict(pairs)
    calls = len(model.runtime.seen)
    assert calls == len(set(TEXTS)) and first.facts["cached"] == 0
    again = model.predict([*pairs[::-1], (QUERY, "w59")])
    assert again.values[:-1].tobytes() == first.values[::-1].tobytes() and len(model.runtime.seen) == calls + 1
    assert again.facts == {"tokens": 2 + 2 + 2, "cached": len(pairs)}
    assert counting().predict(pairs).values.tobytes() == first.values.tobytes()
    with rr.limited(deadline_ms=0):
        late = model.predict([(QUERY, "w40"), *pairs])
    assert late.columns["scored"].tolist() == [False] + [True] * len(pairs), "what is known needs no time"


def test_a_cache_is_shared_and_never_mixes(counting):
    cache, pairs = ScoreCache(1 << 20), [(QUERY, text) for text in TEXTS[:4]]
    one = counting(cache=cache)
    one.predict(pairs)
    assert counting(cache=cache).predict(pairs).facts["cached"] == 4, "the same network"
    assert counting(cache=cache, label=0).predict(pairs).facts["cached"] == 4, "the same logit"
    assert one.shortened(5).predict(pairs).facts["cached"] == sum(len(text.split()) <= 5 for text in TEXTS[:4]), "what it reads as well"
    for name, value in {"fingerprint": "e" * 64, "device": "cuda", "name": "other", "form": "packed"}.items():
        other = counting(cache=cache)
        other.runtime = copy.copy(one.runtime)
        setattr(other.runtime, name, value)
        other = CrossEncoder(other.runtime, one.tokenizer, name="other", cache=cache)
        assert other.predict(pairs).facts["cached"] == 0, name
    prompted = counting(cache=cache)
    prompted._pairs.prompt = "another question"
    assert prompted.predict(pairs).facts["cached"] == 0


def test_no_cache_for_a_network_that_does_not_say_which_it_is(counting, monkeypatch):
    monkeypatch.setattr(Counting, "fingerprint", "")
    counting(cache=0)
    with pytest.raises(InputError, match="cache: got the runtime counting/cpu without a fingerprint"):
        counting(cache=1 << 20)
