from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import backends
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close, assert_same_order

from rerank_engine.backends import choose
from rerank_engine.errors import BackendUnavailable, InputError, NonFiniteError
from rerank_engine.ops import fuse, fuse_explained

EVERY = pytest.mark.parametrize("backend", backends("fuse"))
INT64 = np.iinfo(np.int64)
GOLDEN_INVERSE = pow(0x9E3779B97F4A7C15, -1, 2**64)


def normalised(scores, norm):
    if norm == "min-max":
        return [(s - min(scores)) / max(max(scores) - min(scores), 1e-9) for s in scores]
    if norm == "z-score":
        mean = math.fsum(scores) / len(scores) if scores else 0.0
        deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / max(len(scores), 1))
        return [(s - mean) / max(deviation, 1e-9) for s in scores]
    return scores


def oracle(lists, method="rrf", k=60, weights=None, norm="none"):
    """By document, not by list: (ids, scores, largest sum of absolute terms). float64."""
    return explained_oracle(lists, method, k, weights, norm)[:3]


def explained_oracle(lists, method="rrf", k=60, weights=None, norm="none"):
    """As `oracle`, and {document: {list: (what it adds, place)}}."""
    terms: dict[int, list[float]] = {}
    told: dict[int, dict[int, tuple[float, int]]] = {}
    for l, ((ids, scores), weight) in enumerate(zip(lists, weights or [1.0] * len(lists))):  # noqa: E741
        ids = [int(i) for i in ids]
        values = normalised([float(s) for s in np.asarray(scores, np.float32)], norm)
        for doc in set(ids):
            place = ids.index(doc)
            terms.setdefault(doc, []).append(weight / (k + place + 1) if method == "rrf" else weight * values[place])
            told.setdefault(doc, {})[l] = (terms[doc][-1], place)
    if method == "mnz":
        told = {doc: {l: (t * len(own), place) for l, (t, place) in own.items()} for doc, own in told.items()}  # noqa: E741
        terms = {doc: [term * len(t) for term in t] for doc, t in terms.items()}
    ranked = sorted(((np.float32(sum(t)), doc) for doc, t in terms.items()), key=lambda pair: (-float(pair[0]), pair[1]))
    scale = max((sum(map(abs, t)) for t in terms.values()), default=0.0)
    return [doc for _, doc in ranked], [sum(terms[doc]) for _, doc in ranked], scale, told


def check(queries, backend, top=None, **options):
    got = fuse(queries, top=top, backend=backend, **options)
    assert len(got) == len(queries)
    for lists, (ids, scores) in zip(queries, got):
        assert ids.dtype == np.int64 and scores.dtype == np.float32
        want_ids, want_scores, scale = oracle(lists, **options)
        assert len(ids) == min(len(want_ids), top or len(want_ids))
        assert_same_order(ids, scores, want_ids, want_scores, "fuse", scale)
    again = fuse(queries, top=top, backend=backend, **options)
    threaded = fuse(queries, top=top, backend=backend, threads=4, **options)
    for one, two, three in zip(got, again, threaded):
        assert one[0].tobytes() == two[0].tobytes() == three[0].tobytes()
        assert one[1].tobytes() == two[1].tobytes() == three[1].tobytes()


def random_lists(rng, n_lists, longest, id_range=None):
    out = []
    for _ in range(n_lists):
        n = int(rng.integers(0, longest + 1))
        ids = rng.permutation(id_range or 2 * longest + 1)[:n]
        out.append((ids, -np.sort(-rng.normal(size=n).astype(np.float32))))
    return out


@EVERY
def test_rrf_by_hand(backend):
    [(ids, scores)] = fuse([[([10, 20, 30], [3, 2, 1]), ([30, 10], [9, 8])]], backend=backend)
    assert ids.tolist() == [10, 30, 20]
    assert_close("fuse", scores, [1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])
    assert_close("fuse", scores[:1], [0.03252247488101534])
    [(ids, scores)] = fuse([[([1, 2], [0, 0]), ([2, 3], [0, 0])]], k=0, weights=[0.5, 2], backend=backend)
    assert ids.tolist() == [2, 3, 1]
    assert_close("fuse", scores, [0.5 / 2 + 2 / 1, 2 / 2, 0.5 / 1])


@EVERY
def test_norms_by_hand(backend):
    lists = [[([1, 2, 3], [4, 2, 0]), ([3, 4], [5, 1])]]
    for norm, want in {
        "none": {3: 0 + 5.0, 1: 4.0, 2: 2.0, 4: 1.0},
        "min-max": {1: 1.0, 3: 0 + 1.0, 2: 0.5, 4: 0.0},
        "z-score": {1: math.sqrt(1.5), 2: 0.0, 3: 1 - math.sqrt(1.5), 4: -1.0},
    }.items():
        [(ids, scores)] = fuse(lists, method="sum", norm=norm, backend=backend)
        assert ids.tolist() == list(want)
        assert_close("fuse", scores, list(want.values()), scale=1)


@EVERY
@pytest.mark.parametrize("norm", ["min-max", "z-score"])
def test_a_list_without_spread_adds_nothing(backend, norm):
    [(ids, scores)] = fuse([[([5], [7.5]), ([6, 5], [0.1, 0.1]), ([], [])]], method="sum", norm=norm, backend=backend)
    assert ids.tolist() == [5, 6] and scores.tolist() == [0, 0]


@EVERY
def test_an_id_twice_in_a_list_counts_at_its_better_place(backend):
    [(ids, scores)] = fuse([[([1, 2, 1], [9, 8, 7]), ([2, 2, 1], [3, 2, 1])]], backend=backend)
    assert ids.tolist() == [2, 1]
    assert_close("fuse", scores, [1 / 62 + 1 / 61, 1 / 61 + 1 / 63])
    [(ids, scores)] = fuse([[([1, 2, 1], [9, 8, 7])]], method="sum", backend=backend)
    assert ids.tolist() == [1, 2] and scores.tolist() == [9, 8]


@EVERY
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 0.5},
        {"method": "sum"},
        {"method": "sum", "norm": "min-max"},
        {"method": "sum", "norm": "z-score"},
        {"method": "mnz"},
        {"method": "mnz", "norm": "min-max"},
    ],
    ids=str,
)
@pytest.mark.parametrize("longest", [1, 3, 16, 33, 64, 200])
def test_random_lists(backend, options, longest):
    rng = np.random.default_rng(longest)
    for n_lists in (1, 2, 5):
        queries = [random_lists(rng, n_lists, longest) for _ in range(6)]
        check(queries, backend, **options)
        check(queries, backend, top=1, **options)
        check(queries, backend, top=10**12, weights=rng.normal(size=n_lists).tolist(), **options)


@EVERY
def test_empties(backend):
    assert fuse([], backend=backend) == []
    check([[([], [])]], backend)
    check([[([], []), ([], [])], [([], []), ([4], [1])], [([], []), ([], [])]], backend)
    check([[([], []), ([4, 4], [1, 1])]], backend, method="sum", norm="z-score")


@EVERY
def test_long_then_short_queries_share_no_state(backend):
    rng = np.random.default_rng(0)
    check([random_lists(rng, 2, n) for n in (300, 2, 0, 150, 1, 600, 3)] * 3, backend)


@EVERY
def test_many_queries_over_the_threads(backend):
    rng = np.random.default_rng(0)
    check([random_lists(rng, 2, 8) for _ in range(300)], backend)


@EVERY
def test_extreme_ids(backend):
    check([[([INT64.max, INT64.min, 0, -1], [4, 3, 2, 1]), ([INT64.min, -1, 1], [3, 2, 1])]], backend)
    # All of them want the same slot of the C++ hash table, then all of them neighbours.
    same = np.array([i * GOLDEN_INVERSE % 2**64 for i in range(400)], np.uint64).view(np.int64)
    check([[(same, np.zeros(400)), (same[::-1], np.zeros(400)), (np.arange(400) << 53, np.zeros(400))]], backend)


@EVERY
def test_ties_everywhere(backend):
    ids = np.random.default_rng(1).permutation(100)
    [(got, scores)] = fuse([[(ids, np.zeros(100)), (ids[::-1], np.zeros(100))]], method="sum", backend=backend)
    assert got.tolist() == list(range(100)) and not scores.any()
    [(got, _)] = fuse([[(ids, np.ones(100)), (ids, -np.ones(100))]], method="sum", top=3, backend=backend)
    assert got.tolist() == [0, 1, 2]
    check([[(ids, np.round(np.sin(ids), 1))] * 2], backend, method="sum", norm="min-max")


@EVERY
def test_huge_and_tiny_weights(backend):
    lists = [([1, 2, 3], [3, 2, 1]), ([3, 4], [1, 0.5])]
    for weights in ([1e30, 1e-30], [1e-40, 1e-42], [-1e30, 1e30], [0, 0], [1e300, 0]):
        if weights != [1e300, 0]:
            check([lists], backend, weights=weights)
            check([lists], backend, method="sum", norm="min-max", weights=weights)
            continue
        for options in ({}, {"method": "sum"}, {"method": "sum", "norm": "z-score"}):
            with pytest.raises(NonFiniteError, match="beyond float32"):
                fuse([lists], weights=weights, backend=backend, **options)
    big = [([1, 2], [3e38, -3e38])]
    check([big], backend, method="sum", norm="z-score")
    with pytest.raises(NonFiniteError, match="beyond float32"):  # inf - inf inside the sum
        fuse([big * 2], method="sum", weights=[1e300, -1e300], backend=backend)


@EVERY
@settings(derandomize=True, deadline=None, max_examples=80)
@given(data=st.data())
def test_any_input(backend, data):
    score = st.floats(-1e6, 1e6, width=32)
    one_list = st.lists(st.tuples(st.integers(-5, 20), score), max_size=12)
    n_lists = data.draw(st.integers(1, 4))
    queries = data.draw(st.lists(st.lists(one_list, min_size=n_lists, max_size=n_lists), max_size=3))
    queries = [[([i for i, _ in pairs], [s for _, s in pairs]) for pairs in lists] for lists in queries]
    weights = data.draw(st.none() | st.lists(st.floats(-100, 100), min_size=n_lists, max_size=n_lists))
    options = data.draw(st.sampled_from([{"k": 60}, {"k": 0}, {"k": 1.5}, {"method": "sum"}, {"method": "mnz", "norm": "min-max"}]))
    check(queries, backend, top=data.draw(st.none() | st.integers(1, 30)), weights=weights, **options)


@EVERY
def test_mnz_by_hand(backend):
    [(ids, scores)] = fuse([[([1, 2], [4, 2]), ([2, 3], [5, 1])]], method="mnz", backend=backend)
    assert ids.tolist() == [2, 1, 3] and scores.tolist() == [14, 4, 1]
    [(ids, scores)] = fuse([[([1, 1], [4, 2]), ([2], [5])]], method="mnz", backend=backend)  # twice in one list is one list
    assert ids.tolist() == [2, 1] and scores.tolist() == [5, 4]


@EVERY
@pytest.mark.parametrize(
    "options", [{}, {"k": 0, "weights": [0.5, 2, -1]}, {"method": "sum", "norm": "z-score"}, {"method": "mnz"}], ids=str
)
def test_contributions(backend, options):
    rng = np.random.default_rng(5)
    queries = [random_lists(rng, 3, 40) for _ in range(8)] + [[([], [])] * 3, [([3, 3, 1], [3, 2, 1]), ([1], [0.5]), ([], [])]]
    for top in (None, 4):
        hits = fuse(queries, top=top, backend=backend, **options)
        for lists, told, (ids, scores) in zip(queries, fuse_explained(queries, top=top, backend=backend, **options), hits, strict=True):
            assert told.ids.tolist() == ids.tolist() and told.scores.tobytes() == scores.tobytes()
            assert told.contributions.shape == told.places.shape == (len(ids), 3)
            assert told.contributions.dtype == np.float64 and told.places.dtype == np.int32
            _, _, scale, want = explained_oracle(lists, **options)
            for doc, added, places in zip(ids.tolist(), told.contributions, told.places):
                own = want[doc]
                assert places.tolist() == [own[l][1] if l in own else -1 for l in range(3)]  # noqa: E741
                np.testing.assert_allclose(added, [own[l][0] if l in own else 0 for l in range(3)], rtol=1e-12, atol=1e-14)  # noqa: E741
            assert_close("fuse", scores, told.contributions.sum(axis=1), scale)


@EVERY
def test_every_form_of_input_gives_the_same(backend):
    rng = np.random.default_rng(3)
    ids = np.stack([[rng.permutation(30)[:20] for _ in range(3)] for _ in range(5)])
    scores = -np.sort(-rng.normal(size=ids.shape).astype(np.float32), axis=2)
    pairs = [[(i, s) for i, s in zip(*q)] for q in zip(ids, scores)]
    wide = np.stack([ids, ids], axis=-1)[..., 0]  # not contiguous
    for options in ({}, {"method": "sum"}):
        want = fuse(pairs, backend=backend, **options)
        forms = [
            fuse(given, s, backend=backend, **options)
            for given, s in ((ids, scores), (ids.astype(np.uint16), scores.tolist()), (wide, scores))
        ]
        forms.append(fuse([[(i.tolist(), s.astype(np.float64)) for i, s in q] for q in pairs], backend=backend, **options))
        forms.append(fuse([[(i.astype(np.int32), s[::-1][::-1]) for i, s in q] for q in pairs], backend=backend, **options))
        if not options:
            forms += [fuse(ids, backend=backend), fuse([list(q) for q in ids], backend=backend), fuse(list(ids), backend=backend)]
        for form in forms:
            for (a, b), (c, d) in zip(form, want, strict=True):
                assert a.tolist() == c.tolist() and b.tobytes() == d.tobytes()
    assert fuse(np.empty((0, 2, 5), np.int64), backend=backend) == []
    assert len(fuse(np.empty((2, 2, 0), np.int64), backend=backend)[1][0]) == 0


@pytest.mark.parametrize(
    ("queries", "options", "error", "text"),
    [
        ([[([1], [1])]], {"method": "mean"}, InputError, "rrf, sum"),
        ([[([1], [1])]], {"norm": "l2"}, InputError, "z-score"),
        ([[([1], [1])]], {"k": -1}, InputError, "from 0"),
        ([[([1], [1])]], {"k": math.inf}, InputError, "fuse: k"),
        ([[([1], [1])]], {"k": 10**400}, InputError, "fuse: k"),
        ([[([1], [1])]], {"top": 0}, InputError, "fuse: top"),
        ([[([1], [1])]], {"threads": 0}, InputError, "threads"),
        ([[([1], [1])]], {"weights": [1, 2]}, InputError, "2 weights"),
        ([[([1], [1])]], {"weights": [math.nan]}, InputError, "fuse: weights"),
        ([[([1], [1])]], {"weights": ["1"]}, InputError, "a number"),
        ([[]], {}, InputError, "number of lists"),
        ([[([1], [1])], []], {}, InputError, "number of lists"),
        ([[([1], [1, 2])]], {}, InputError, "2 scores"),
        ([[([1.5], [1])]], {}, InputError, "fuse: ids"),
        ([[([[1]], [1])]], {}, InputError, "fuse: ids"),
        ([[([1], [math.nan])]], {}, NonFiniteError, "nan at"),
        ([[([1], [-math.inf])]], {"method": "sum"}, NonFiniteError, "-inf at"),
        ([[([1], np.array([math.nan], np.float32))]], {}, NonFiniteError, "nan at"),
        ([[([1], np.array([math.inf], np.float32))]], {"method": "mnz"}, NonFiniteError, "inf at"),
        ([[np.arange(3)]], {"method": "sum"}, InputError, "ids alone"),
        ([[np.arange(3), ([1], [1])]], {}, InputError, "several forms"),
        ([[([1], [1], [1])]], {}, InputError, "several forms"),
        ([[([1], [1])]], {"scores": [1]}, InputError, "beside lists"),
        (np.zeros((2, 3), int), {}, InputError, "several forms|shape"),
        (np.zeros((2, 0, 3), int), {}, InputError, "1 list or more"),
        (np.zeros((2, 1, 3), int), {"scores": np.zeros((2, 3))}, InputError, "as the ids have"),
        (np.zeros((1, 1, 3), int), {"scores": np.full((1, 1, 3), math.nan, np.float32)}, NonFiniteError, "nan at"),
    ],
)
def test_wrong_arguments(queries, options, error, text):
    for backend in backends("fuse"):
        with pytest.raises(error, match=text) as caught:
            fuse(queries, backend=backend, **options)
        assert type(caught.value) is error


def test_a_named_backend_never_falls_back(without_cpp):
    with pytest.raises(BackendUnavailable, match=r"fuse: backend 'cpp' .*this test took it away.*Available here: reference\."):
        fuse([[([1], [1])]], backend="cpp")
    assert choose("fuse") == "reference"
    assert fuse([[([1], [1])]])[0][0].tolist() == [1]


def test_native_refuses_what_it_cannot_read():
    native = pytest.importorskip("rerank_engine._native")
    ids, scores, weights = [np.arange(2), np.arange(2)], [np.ones(2, np.float32)] * 2, np.ones(2)

    def run(ids=ids, scores=scores, weights=weights, method="sum", norm="none", k=60.0, top=0, threads=1):
        told = native.fuse_explained(ids, scores, weights, method, norm, k, top, threads)
        plain = native.fuse(ids, scores, weights, method, norm, k, top, threads)
        assert [a.tolist() for a in plain] == [a.tolist() for a in told[:3]]
        return plain

    assert run()[0].tolist() == [0, 2]
    assert run(threads=-3, top=2**64 - 1)[0].tolist() == [0, 2]
    assert run(scores=[], method="rrf")[0].tolist() == [0, 2]
    for wrong in (
        {"ids": [i.astype(np.int32) for i in ids]},
        {"ids": [np.arange(8)[::4]] * 2},
        {"ids": np.arange(2)},
        {"scores": [s.astype(np.float64) for s in scores]},
        {"weights": weights.astype(np.float32)},
        {"top": -1},
        {"k": "60"},
    ):
        with pytest.raises(TypeError):
            run(**wrong)
    for wrong in (
        {"ids": ids[:1], "scores": scores[:1]},
        {"weights": np.empty(0)},
        {"scores": scores[:1]},
        {"scores": []},
        {"scores": [scores[0], scores[0][:1]]},
        {"method": "mean"},
        {"norm": "l2"},
    ):
        with pytest.raises(ValueError):
            run(**wrong)
    for weights in (np.full(2, 1e300), np.full(2, np.nan)):
        with pytest.raises(OverflowError):
            run(weights=weights)
