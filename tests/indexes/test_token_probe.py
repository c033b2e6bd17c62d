"""Searching residual codes by their centroids: the lists, what is found against a plain account of the algorithm, and when it is done."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec, ResidualTokens
from rerank_engine.errors import FileFormatError, InputError, NonFiniteError
from rerank_engine.indexes.token_probe import LEAST, PER_RESULT, PROBE, lists_of, planned, probe_report
from rerank_engine.ops import centroid_maxsim, centroid_scores

N, DIM, K = 300, 16, 64


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    """300 documents of 0 to 9 tokens, near 40 directions."""
    rng = np.random.default_rng(3)
    near = unit(rng.normal(size=(40, DIM)))
    return [unit(near[rng.integers(0, 40, i % 10)] + 0.2 * rng.normal(size=(i % 10, DIM))) for i in range(N)]


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(4)
    return [unit(rng.normal(size=(n, DIM))) for n in (1, 5, 40)]


def documents(start: int, end: int) -> list[rr.Document]:
    return [rr.Document(f"d{i}", "") for i in range(start, end)]


def made(vectors, storage: str = "2bit", parts: int = 1) -> rr.TokenIndex:
    """In memory, of one or more segments, built of equal pieces."""
    codec, edges = None, np.linspace(0, N, parts + 1).astype(int).tolist()
    if storage.endswith("bit"):
        codec = ResidualCodec.train(np.concatenate(vectors), int(storage[0]), K, backend="numpy")
    index = rr.TokenIndex.from_embeddings(rr.Corpus(documents(0, edges[1])), vectors[: edges[1]], storage=storage, codec=codec)
    for start, end in itertools.pairwise(edges[1:]):
        index.add_embeddings(documents(start, end), vectors[start:end])
    return index


def account(index, query, k, probe, n, allowed):
    """(rows found by the lists, the k best of the n best of them), as the module's docstring has it."""
    tokens = [(row, int(c)) for row, c in enumerate_tokens(index)]
    table = centroid_scores(query, index.codec.centroids)
    best = {int(c) for i in range(len(query)) for c in np.lexsort((np.arange(K), -table[:, i]))[:probe]}
    found = sorted({row for row, c in tokens if c in best and allowed[row]})
    parts, base = [], 0
    for member in index._members:
        own = [row - base for row in found if base <= row < base + member.n_rows]
        parts.append(centroid_maxsim(table, member.tokens, own))
        base += member.n_rows
    approximate = np.concatenate(parts)
    kept = sorted(found[i] for i in np.lexsort((found, -approximate))[:n])
    scores = index.score(query, kept)
    return found, [kept[i] for i in np.lexsort((kept, -scores))[:k]]


def enumerate_tokens(index):
    base = 0
    for member in index._members:
        for row in range(member.n_rows):
            for c in member.columns["centroid_ids"][member.offsets[row] : member.offsets[row + 1]]:
                yield base + row, c
        base += member.n_rows


@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_lists_hold_each_document_of_a_centroid_once(vectors, nbits):
    index = made(vectors, f"{nbits}bit")
    [member] = index._members
    want = {c: sorted({row for row, own in enumerate_tokens(index) if own == c}) for c in range(K)}
    lists = member.lists
    assert [lists.of(np.array([c])).tolist() for c in range(K)] == list(want.values())
    assert lists.of(np.array([5, 2])).tolist() == want[5] + want[2] and lists.of(np.empty(0, np.int64)).size == 0
    assert lists.rows.dtype == np.int32 and lists.nbytes == 4 * len(lists.rows) + 8 * (K + 1)
    assert member.lists is lists
    index.delete(["d5", "d17"])
    assert index._members[0].lists is lists  # deletions keep them


def test_lists_of_wide_ids(vectors):
    [member] = made(vectors)._members
    tokens = member.tokens
    wide = ResidualTokens(tokens.codec, tokens.centroid_ids.astype(np.int32), tokens.residuals, tokens.inverse_norms, tokens.offsets)
    assert (lists_of(wide).rows == member.lists.rows).all() and (lists_of(wide).offsets == member.lists.offsets).all()


def test_lists_of_a_damaged_index(vectors):
    [member] = made(vectors)._members
    ids, offsets = member.columns["centroid_ids"].copy(), member.offsets.copy()
    ids[7] = K
    with pytest.raises(FileFormatError, match="a centroid that the codec does not have"):
        _ = replace(member, columns={**member.columns, "centroid_ids": ids}, kept={}).lists
    offsets[5] = offsets[6] + 1
    with pytest.raises(FileFormatError, match="a step back"):
        _ = replace(member, offsets=offsets, kept={}).lists


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("storage", ["1bit", "2bit", "4bit"])
def test_what_is_found_is_what_the_algorithm_says(vectors, queries, storage, parts):
    index, allowed = made(vectors, storage, parts), np.ones(N, bool)
    assert len(index._members) == parts
    rng = np.random.default_rng(0)
    for deleted, mask in ((0, None), (25, None), (0, rng.random(N) < 0.6)):
        if deleted:
            gone = rng.permutation(N)[:deleted]
            index.delete([f"d{i}" for i in gone])
            allowed[gone] = False
        may = allowed if mask is None else allowed & mask
        for query, probe, n in itertools.product(queries, (1, 3), (12, 60)):
            found, want = account(index, query, 10, probe, n, may)
            if len(found) < 10:
                continue
            filters = None if mask is None else [mask]
            [((rows, scores), plan)] = index.search_explained([query], 10, probe=probe, candidates=n, filters=filters)
            assert rows.tolist() == want
            assert scores.tobytes() == np.sort(index.score(query, rows))[::-1].tobytes()
            assert plan.facts == {"probe": probe, "found": len(found), "candidates": min(n, len(found)), "exhaustive": False}
            again = index.search([query], 10, probe=probe, candidates=n, filters=filters, num_threads=2)[0]
            assert again[0].tolist() == want and again[1].tobytes() == scores.tobytes()


def test_all_centroids_and_nearly_all_candidates_are_the_exhaustive_answer(vectors, queries):
    index = made(vectors)
    with_tokens = sum(len(row) > 0 for row in vectors)
    for query in queries:
        [((rows, scores), plan)] = index.search_explained([query], 20, probe=K, candidates=with_tokens)
        exact = index.search([query], 20, probe=None)[0]
        assert rows.tolist() == exact[0].tolist() and scores.tobytes() == exact[1].tobytes()
        assert (plan.probe, plan.found) == (K, with_tokens)


def test_lists_that_hold_too_little_are_followed_by_more(vectors, queries):
    index, few = made(vectors), np.zeros(N, bool)
    few[3::40] = True
    [((rows, _), plan)] = index.search_explained([queries[0]], 200, probe=1, candidates=200)
    assert len(rows) == 200 and plan.probe > 1 and not plan.facts["exhaustive"]
    want = set(np.flatnonzero(few).tolist()) - {row for row in range(N) if not len(vectors[row])}
    [((rows, _), plan)] = index.search_explained([queries[0]], 7, probe=1, candidates=7, filters=[few])
    assert plan.facts["exhaustive"] == (int(few.sum()) <= 7) and set(rows.tolist()) <= want and len(rows) == min(7, len(want))


def test_no_more_documents_than_candidates_are_all_scored(vectors, queries):
    index, few = made(vectors), np.zeros(N, bool)
    few[:30] = True
    for probe in (1, "auto", None):
        [((_, scores), plan)] = index.search_explained([queries[1]], 5, probe=probe, candidates=30, filters=[few])
        assert plan.facts == {"probe": None, "found": 30, "candidates": 30, "exhaustive": True}
        best = np.sort(index.score(queries[1], np.arange(30)))[::-1][:5]
        assert scores.tobytes() == best.tobytes()


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_plain_vectors_have_no_centroids(vectors, queries, storage):
    index = made(vectors, storage)
    hits = [index.search([queries[1]], 5, probe=probe)[0] for probe in ("auto", None)]
    assert hits[0][0].tolist() == hits[1][0].tolist() and hits[0][1].tobytes() == hits[1][1].tobytes()
    with pytest.raises(InputError, match=rf'probe: got 4 for {storage}; expected an index of residual codes. Build .* storage="2bit"'):
        index.search([queries[1]], 5, probe=4)
    with pytest.raises(InputError, match="expected an index of residual codes"):
        probe_report(index, queries, 5)


def test_first_searches_at_once_make_the_lists_once(vectors, queries, monkeypatch):
    index, calls = made(vectors), []

    def slow(tokens):
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return lists_of(tokens)

    monkeypatch.setattr("rerank_engine.indexes.token_members.lists_of", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: index.search([queries[1]], 5, probe=2, candidates=9)[0][0].tolist(), range(4)))
    index.delete(["d1"])
    index.search([queries[1]], 5, probe=2, candidates=9)
    assert len(calls) == 1 and found == [found[0]] * 4


def test_wrong_options(vectors, queries):
    index = made(vectors)
    for probe in (0, -1, True, 1.5, "all"):
        with pytest.raises(InputError, match=r'probe: got .*; expected "auto", None for every document, or an integer'):
            index.search(queries, 5, probe=probe)
    with pytest.raises(InputError, match="candidates: got 4; expected at least k, 5"):
        index.search(queries, 5, candidates=4)
    with pytest.raises(InputError, match="candidates: got 0"):
        index.search(queries, 5, candidates=0)
    with pytest.raises(NonFiniteError):
        index.search([np.full((2, DIM), np.nan)], 5, probe=2, candidates=20)
    with pytest.raises(InputError, match=f"dimension 3; expected {DIM}"):
        index.search([np.ones((2, 3))], 5, probe=2, candidates=20)
    with pytest.raises(InputError, match="queries: got none"):
        probe_report(index, [], 5)


def test_an_empty_index_finds_nothing(tmp_path, vectors, queries):
    codec = made(vectors).codec
    index = rr.TokenIndex.create(tmp_path / "index", storage="2bit", codec=codec)
    [((rows, scores), plan)] = index.search_explained([queries[0]], 5, probe=2)
    assert rows.size == scores.size == 0 and plan.candidates == 0
    with pytest.raises(InputError, match="probe_report: index: got an empty index"):
        probe_report(index, queries, 5)
    with pytest.raises(TypeError, match="prob"):
        index.search(queries, 5, prob=3)  # type: ignore[call-arg]


def test_the_cost_model():
    rng = np.random.default_rng(0)
    codec = ResidualCodec(unit(rng.normal(size=(8192, 128))), np.zeros(3), np.arange(4.0))
    assert planned(codec, 100_000, 6_000_000, 32, 10) == (PROBE, LEAST)
    assert planned(codec, 100_000, 6_000_000, 32, 100) == (PROBE, PER_RESULT * 100)
    assert planned(codec, 100_000, 6_000_000, 32, 100, candidates=700) == (PROBE, 700)
    assert planned(codec, 100_000, 6_000_000, 32, 20_000) == (None, 100_000)  # nearly all would be candidates
    assert planned(codec, LEAST, 10_000, 32, 10) == (None, LEAST)
    assert planned(codec, 1000, 2000, 32, 10) == (None, 1000)  # its products with the centroids cost more than the scan
    assert planned(codec, 1000, 2000, 32, 10, 2) == (2, LEAST)  # a number is taken at its word
    assert planned(codec, 100_000, 6_000_000, 32, 10, None) == (None, 100_000)
    assert planned(codec, 100_000, 6_000_000, 32, 10, 10_000) == (8192, LEAST)
    assert planned(None, 100_000, 6_000_000, 32, 10) == (None, 100_000)
    chosen = [planned(codec, n, 60 * n, 32, 100)[0] is not None for n in 2 ** np.arange(4, 24)]
    assert chosen == sorted(chosen) and chosen[-1] and not chosen[0]  # from some size on, and not below it


def test_the_report(vectors, queries):
    index = made(vectors)
    report = probe_report(index, queries, 10, (1, K), candidates=40)
    assert [row["probe"] for row in report] == [None, 1, K] and {row["k"] for row in report} == {10}
    assert report[0]["recall"] == 1 and report[0]["scored"] == 1 and report[0]["faster"] == [1, 1]
    recall = []
    for query in queries:
        exact, found = (set(index.search([query], 10, probe=probe, candidates=40)[0][0].tolist()) for probe in (None, 1))
        recall.append(len(exact & found) / 10)
    assert report[1]["recall"] == pytest.approx(np.mean(recall)) and report[1]["scored"] <= 40 / N + 1e-9
    assert report[2]["found"] == pytest.approx(sum(len(row) > 0 for row in vectors) / N) and all(row["cpu_ms"] >= 0 for row in report)
