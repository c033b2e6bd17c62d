"""The kinds over faiss: what they find, how they are searched, and that they are seen to be what they are."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import BackendUnavailable, InputError, MissingDependency, NonFiniteError
from rerank_engine.indexes import vector_build, vector_faiss

SLOW = ("hnsw", "pq", "ivfpq")
KINDS = ("flat", "ivf", "hnsw", "sq8", "pq", "ivfpq")
N, DIM = 2000, 32
faiss = pytest.importorskip("faiss")


def corpus(n: int) -> rr.Corpus:
    return rr.Corpus.from_texts([f"text {i}" for i in range(n)])


def clustered(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 [n, dim] of unit length around n / 40 centres, as texts lie around their topics."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 40), dim))
    vectors = centres[rng.integers(len(centres), size=n)] + 0.7 * rng.standard_normal((n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS = clustered(N, DIM)
VECTORS[100:140] = VECTORS[7]  # documents that tie
CORPUS = corpus(N)
QUERIES = VECTORS[np.random.default_rng(1).integers(N, size=30)] + 0.05 * np.random.default_rng(2).standard_normal((30, DIM), np.float32)
QUERIES[3] = VECTORS[7]
EXACT = rr.VectorIndex(CORPUS, VECTORS)


@pytest.fixture(scope="module")
def built():
    made: dict[tuple, rr.VectorIndex] = {}

    def build(kind: str, keep: str | None = "float32") -> rr.VectorIndex:
        if (kind, keep) not in made:
            if keep is None and kind in SLOW:  # to build
                made[kind, keep] = rr.VectorIndex._of(replace(build(kind)._parts, vectors=None))
            else:
                made[kind, keep] = rr.VectorIndex.from_vectors(CORPUS, VECTORS, kind=kind, keep=keep)
        return made[kind, keep]

    return build


def recall(found, want) -> float:
    """The share of what was found that belongs among the best as well as the last of them does: of ties, any will do."""
    return float(np.mean([(a[1] >= b[1][-1]).sum() / len(b[1]) for a, b in zip(found, want)]))


def shared(found, want) -> float:
    """The same by rows, where the scores are not ours."""
    return float(np.mean([len(set(a[0].tolist()) & set(b[0].tolist())) / len(b[0]) for a, b in zip(found, want)]))


def same(a, b) -> bool:
    return len(a) == len(b) and all(x[0].tolist() == y[0].tolist() and x[1].tobytes() == y[1].tobytes() for x, y in zip(a, b))


@pytest.mark.parametrize(
    ("kind", "k", "least"), [("ivf", 50, 0.95), ("hnsw", 100, 0.95), ("sq8", 100, 0.95), ("pq", 100, 0.9), ("ivfpq", 50, 0.9)]
)
def test_most_of_the_best_are_found_and_scored_exactly(built, kind, k, least):
    index, want = built(kind), EXACT.search(QUERIES, N)
    if kind in ("ivf", "ivfpq"):
        assert index.effort(k)["nprobe"] < index._parts.approximate.built["nlist"], "some lists are left out"
    if kind == "hnsw":
        assert index.effort(k)["ef"] < N / 4
    found = index.search(QUERIES, k)
    assert recall(found, [(rows[:k], scores[:k]) for rows, scores in want]) >= least
    for (rows, scores), (all_rows, all_scores) in zip(found, want):
        exact = dict(zip(all_rows.tolist(), all_scores.tolist()))
        assert scores.tolist() == [exact[row] for row in rows.tolist()]
        assert rows.dtype == np.int64 and len(rows) == k == len(set(rows.tolist()))
        assert rows.tolist() == rr.ops.topk(scores, k, ids=rows)[0].tolist(), "score descending, then row ascending"
    assert index.scores_exact and index.scale == "inner product"


@pytest.mark.parametrize("keep", ["float32", "float16"])
@pytest.mark.parametrize("k", [1, 5, 41, N, N + 5])
def test_flat_is_exact_to_the_bit_ties_too(built, k, keep):
    want = EXACT if keep == "float32" else rr.VectorIndex.from_vectors(CORPUS, VECTORS, kind="exact", keep=keep)
    assert same(built("flat", keep=keep).search(QUERIES, k), want.search(QUERIES, k))
    assert want.search(QUERIES[3:4], 3)[0][0].tolist() == [7, 100, 101]


@pytest.mark.parametrize("keep", ["float32", None])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_depends_neither_on_the_batch_nor_on_threads(built, kind, keep):
    index = built(kind, keep=keep)
    together = index.search(QUERIES, 20, threads=2)
    assert same(together, [index.search(query[None], 20, threads=1)[0] for query in QUERIES])


@pytest.mark.parametrize("keep", ["float32", None])
@pytest.mark.parametrize("kind", KINDS)
def test_filters(built, kind, keep):
    index, mask = built(kind, keep=keep), np.random.default_rng(3).random(N) < 0.1
    none, one = np.zeros(N, bool), np.zeros(N, bool)
    one[17] = True
    found = index.search(QUERIES[:5], 50, filters=[mask, None, none, one, mask])
    assert all(mask[found[i][0]].all() and len(found[i][0]) == 50 for i in (0, 4))
    assert len(found[1][0]) == 50 and not len(found[2][0]) and found[3][0].tolist() == [17]
    assert same(found[1:2], index.search(QUERIES[1:2], 50))
    want = EXACT.search(QUERIES[:1], 50, filters=[mask])
    if keep is not None:
        assert same(found[:1], want), "few documents are scanned"
    else:
        assert shared(found[:1], want) >= (0.95 if kind in ("flat", "ivf", "hnsw") else 0.5)


def test_a_wide_filter_goes_through_faiss(built, monkeypatch):
    monkeypatch.setattr("rerank_engine.indexes.vectors.AUTO", 0)
    mask = np.random.default_rng(3).random(N) < 0.5
    want = EXACT.search(QUERIES, 50, filters=[mask] * len(QUERIES))
    for kind, least in (("flat", 1.0), ("hnsw", 0.95), ("ivf", 0.95)):
        found = built(kind).search(QUERIES, 50, filters=[mask] * len(QUERIES))
        assert recall(found, want) >= least and all(mask[rows].all() for rows, _ in found)


@pytest.mark.parametrize("kind", KINDS)
def test_without_kept_vectors_scores_are_faiss_s(built, kind):
    index = built(kind, keep=None)
    assert index.keep is None and index.effort(10)["rescore"] == 0
    assert index.scores_exact == (kind in ("flat", "ivf", "hnsw"))
    assert index.scale == ("inner product" if index.scores_exact else "approximate inner product")
    with pytest.raises(InputError, match="keep=None"):
        index.vectors  # noqa: B018
    with pytest.raises(InputError, match="keeps its vectors"):
        index.with_search(rescore=2)
    kept = built(kind).with_search(rescore=0)
    assert same(kept.search(QUERIES, 10), index.search(QUERIES, 10)) and kept.scale == index.scale


def test_more_candidates_find_more(built):
    want = EXACT.search(QUERIES, 20)
    for kind, low, high in (
        ("ivf", {"nprobe": 1}, {"nprobe": 60}),
        ("pq", {"rescore": 1}, {"rescore": 20}),
    ):
        few, many = (recall(built(kind).with_search(**asked).search(QUERIES, 20), want) for asked in (low, high))
        assert few < many and many > 0.97, kind
    loose = rr.VectorIndex.from_vectors(CORPUS, VECTORS, kind="hnsw", links=2, ef_construction=2)
    few, many = (recall(loose.with_search(ef=ef).search(QUERIES, 20), want) for ef in (1, 500))
    assert few < many
    assert recall(built("ivf").with_search(nprobe=10_000).search(QUERIES, 20), want) == 1


def test_the_repr_tells_the_settings(built):
    assert repr(built("ivf")) == "VectorIndex(2000 x 32, ivf, nlist 51, nprobe 51, rescore 1 at k = 100, keeps float32)"
    assert repr(built("hnsw").with_search(ef=300)) == (
        "VectorIndex(2000 x 32, hnsw, links 32, ef_construction 200, ef 300, rescore 1 at k = 100, keeps float32)"
    )
    assert "keeps no vectors" in repr(built("sq8", keep=None)) and "code_bytes 8, rescore 4" in repr(built("pq"))


def test_effort_grows_with_k(built):
    assert built("hnsw").effort(10) == {"ef": 256, "rescore": 1} and built("hnsw").effort(1000) == {"ef": 2000, "rescore": 1}
    assert built("hnsw").with_search(ef=7).effort(1000)["ef"] == 1000, "k at least"
    assert built("ivf").effort(1)["nprobe"] == 15 and built("ivf").effort(1000)["nprobe"] == 51 and EXACT.effort(3) == {}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("exact", {"rescore": 2}),
        ("hnsw", {"nprobe": 3}),
        ("ivf", {"ef": 3}),
        ("ivf", {"nprobe": 0}),
        ("hnsw", {"ef": 1.5}),
        ("pq", {"rescore": -1}),
    ],
)
def test_search_settings_that_do_not_fit(built, kind, asked):
    with pytest.raises(InputError, match=f"VectorIndex: {next(iter(asked))}"):
        (EXACT if kind == "exact" else built(kind)).with_search(**asked)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tree", {}, "one of auto, exact, flat"),
        ("exact", {"nlist": 3}, "nlist; expected none"),
        ("hnsw", {"nlist": 3}, "nlist; expected links, ef_construction"),
        ("ivf", {"nlist": N + 1}, "at most 2000"),
        ("pq", {"code_bytes": 5}, "a divisor of 32"),
        ("ivf", {"nlist": 0}, "at least 1"),
        ("exact", {"keep": None}, "keep"),
        ("flat", {"keep": "int8"}, "float32, float16"),
        ("flat", {"metric": "l2"}, "inner product, cosine"),
        ("flat", {"dim": 33}, "at most 32"),
        ("flat", {"threads": 0}, "threads"),
    ],
)
def test_build_settings_that_do_not_fit(kind, options, message):
    with pytest.raises(InputError, match=message):
        rr.VectorIndex.from_vectors(CORPUS, VECTORS, kind=kind, **options)


def test_few_documents():
    few = rr.Corpus.from_texts(["a", "b", "c"])
    for kind in ("flat", "ivf", "hnsw", "sq8"):
        index = rr.VectorIndex.from_vectors(few, VECTORS[:3], kind=kind)
        assert same(index.search(QUERIES[:2], 5), rr.VectorIndex(few, VECTORS[:3]).search(QUERIES[:2], 5))
    for kind in ("pq", "ivfpq"):
        with pytest.raises(InputError, match="at least 256"):
            rr.VectorIndex.from_vectors(few, VECTORS[:3], kind=kind)


def test_building_twice_builds_the_same():
    for kind in ("hnsw", "ivfpq"):
        one, other = (rr.VectorIndex.from_vectors(corpus(300), VECTORS[:300], kind=kind)._parts.approximate for _ in range(2))
        assert one.to_bytes().tobytes() == other.to_bytes().tobytes()


def test_faiss_s_threads_are_put_back(built):
    seen = []

    def work():  # OpenMP's setting belongs to the thread
        faiss.omp_set_num_threads(3)
        rr.VectorIndex.from_vectors(CORPUS, VECTORS, kind="ivf", threads=1)
        built("ivf").search(QUERIES, 5, threads=1)
        with pytest.raises(InputError):
            built("ivf").search(QUERIES, 5, threads=0)
        seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [3]


def test_auto(monkeypatch):
    def kind(n):
        return vector_build.require("auto", "cosine", "float32", n, None, {})

    assert kind(vector_build.AUTO) == "exact" and kind(vector_build.AUTO + 1) == "hnsw"
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert kind(vector_build.AUTO + 1) == "exact"


def test_without_faiss(built, tmp_path, monkeypatch):
    built("flat").save(tmp_path / "index")
    monkeypatch.setitem(sys.modules, "faiss", None)
    for call in (
        lambda: rr.VectorIndex.from_vectors(CORPUS, VECTORS, kind="flat"),
        lambda: rr.VectorIndex.open(tmp_path / "index"),
    ):
        with pytest.raises(MissingDependency, match=r"pip install 'rerank-engine\[faiss\]'"):
            call()


def test_a_broken_faiss_is_not_a_missing_one(tmp_path, monkeypatch):
    (tmp_path / "faiss.py").write_text("import a_part_of_it_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faiss")
    for call in (vector_faiss.require_faiss, vector_faiss.has_faiss):
        with pytest.raises(ModuleNotFoundError, match="a_part_of_it_that_is_missing"):
            call()


def test_no_gpu(built):
    if hasattr(faiss, "StandardGpuResources"):
        pytest.skip("this faiss has GPUs")
    with pytest.raises(BackendUnavailable, match="faiss-gpu"):
        built("ivf").to_gpu()
    with pytest.raises(InputError, match="kind 'exact'"):
        EXACT.to_gpu()


def test_bad_queries(built):
    for kind in KINDS:
        with pytest.raises(NonFiniteError):
            built(kind).search(np.full((1, DIM), np.nan), 1)
        with pytest.raises(InputError, match="dimension 31"):
            built(kind).search(np.ones((1, DIM - 1)), 1)
        assert built(kind).search(np.empty((0, DIM)), 1) == []
    for bad in ([np.ones(3, bool)], [np.ones(N)], []):
        with pytest.raises(InputError, match="filters"):
            built("flat").search(QUERIES[:1], 1, filters=bad)


def test_a_product_beyond_float32_is_refused():
    huge = rr.VectorIndex.from_vectors(corpus(3), np.full((3, 2), 1e30), kind="flat")
    with pytest.raises(NonFiniteError):
        huge.search(np.full((1, 2), 1e30), 1)


def test_the_constants_are_faiss_s():
    assert set(vector_faiss.SETTINGS) == set(vector_faiss.CLASSES) == set(vector_faiss.FETCH) == set(KINDS)
