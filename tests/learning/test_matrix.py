"""The feature matrix, its measures and its files."""

from __future__ import annotations

import numpy as np
import pytest

from rerank_engine import errors, evaluate
from rerank_engine.learning import FeatureMatrix


def matrix(**changes) -> FeatureMatrix:
    values = np.array([[1, 0], [np.nan, -2.5], [0.1, 3], [0, 0], [5, 1e-7]], np.float32)
    given = {"names": ("bm25", "clicks per day"), "values": values, "offsets": [0, 2, 2, 5], "labels": [0, 2, 1, 0, 3]}
    return FeatureMatrix(**{**given, "query_ids": ("q1", "q2", "q3"), "doc_ids": tuple("abcde"), **changes})


def equal(a: FeatureMatrix, b: FeatureMatrix) -> bool:
    same = a.names == b.names and a.query_ids == b.query_ids and a.doc_ids == b.doc_ids and np.array_equal(a.offsets, b.offsets)
    return same and np.array_equal(a.values, b.values, equal_nan=True) and np.array_equal(a.labels, b.labels)


def test_parts_of_it():
    m = matrix()
    assert len(m) == 3 and repr(m) == "FeatureMatrix(3 queries, 5 rows, 2 features)"
    assert m.column("bm25").tolist()[2:] == pytest.approx([0.1, 0, 5])
    swapped = m.select(["clicks per day", "bm25"])
    assert swapped.names == ("clicks per day", "bm25") and np.array_equal(swapped.values[:, 1], m.values[:, 0], equal_nan=True)
    part = m.take([2, 0])
    assert part.query_ids == ("q3", "q1") and part.doc_ids == tuple("cdeab") and part.labels.tolist() == [1, 0, 3, 0, 2]
    assert len(m.take([])) == 0 and m.select([]).values.shape == (5, 0)
    with pytest.raises(errors.InputError, match="one of bm25"):
        m.column("pagerank")
    assert m.take(range(1, 3)).query_ids == m.take(np.flatnonzero([False, True, True])).query_ids == ("q2", "q3")
    for wrong in ([True, False, True], np.ones(3, bool), [-1], [3], [0.0], [[0]], 1, [2**70]):
        with pytest.raises(errors.InputError, match="take: queries"):
            m.take(wrong)


def test_it_is_measured_as_runs_are():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    labels[:20] = 0
    m = FeatureMatrix(("a",), rng.normal(size=(200, 1)), np.arange(0, 201, 20), labels)
    scores = rng.normal(size=200)
    qrels = {str(q): {str(d): int(labels[d]) for d in range(20 * q, 20 * q + 20)} for q in range(1, 10)}  # query 0 has no positive
    run = {str(q): {str(d): scores[d] for d in range(20 * q, 20 * q + 20)} for q in range(10)}
    for measure in ("nDCG(gain='exponential')@10", "nDCG@3", "MRR"):
        assert m.evaluate(scores, measure) == pytest.approx(evaluate(qrels, run, [measure])[measure], abs=1e-6)
    assert m.evaluate(scores) == m.evaluate(scores, "nDCG(gain='exponential')@10")
    tied = FeatureMatrix(("a",), np.zeros((2, 1)), [0, 2], [0, 1])
    assert tied.evaluate([1.0, 1.0], "MRR") == 0.5  # ties stand in the rows' order
    for wrong in ([1.0], [np.nan, 1.0]):
        with pytest.raises(errors.InputError, match="scores"):
            tied.evaluate(wrong)
    with pytest.raises(errors.InputError, match="labels"):
        FeatureMatrix(("a",), np.zeros((2, 1)), [0, 2]).evaluate([1.0, 2.0])


def test_files_come_back(tmp_path):
    m = matrix()
    m.save(tmp_path / "m.npz")
    assert equal(FeatureMatrix.load(tmp_path / "m.npz"), m)
    matrix(labels=None).save(tmp_path / "u.npz")
    assert FeatureMatrix.load(tmp_path / "u.npz").labels is None
    for ending in ("svm", "svmlight", "txt"):
        matrix().take([0, 2]).save(tmp_path / f"m.{ending}")
        again = FeatureMatrix.from_svmlight(tmp_path / f"m.{ending}", names=m.names)
        assert equal(FeatureMatrix(m.names, again.values, again.offsets, again.labels, ("q1", "q3"), again.doc_ids), m.take([0, 2]))
        assert again.query_ids == ("1", "2")
    lines = (tmp_path / "m.svm").read_text().splitlines()
    assert lines == [
        "# 1:bm25 2:clicks_per_day", "0 qid:1 1:1.0 # a", "2 qid:1 1:nan 2:-2.5 # b", "1 qid:2 1:0.1 2:3.0 # c", "0 qid:2  # d",
        "3 qid:2 1:5.0 2:1e-07 # e",
    ]  # fmt: skip
    m.save(tmp_path / "m.tsv")
    table = [line.split("\t") for line in (tmp_path / "m.tsv").read_text().splitlines()]
    assert table[0] == ["query", "document", "label", "bm25", "clicks per day"] and table[2] == ["q1", "b", "2", "nan", "-2.5"]
    with pytest.raises(errors.InputError, match="ending"):
        m.save(tmp_path / "m.pkl")
    with pytest.raises(errors.InputError, match="cannot write"):
        m.save(tmp_path / "absent" / "m.npz")


def test_sklearn_reads_our_svmlight(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    m = matrix().take([0, 2])
    m.save(tmp_path / "m.svm")
    x, y, qid = datasets.load_svmlight_file(str(tmp_path / "m.svm"), query_id=True)
    assert (
        np.array_equal(x.toarray().astype(np.float32), m.values, equal_nan=True)
        and y.tolist() == m.labels.tolist()
        and qid.tolist() == [1, 1, 2, 2, 2]
    )


WRONG_LINES = (
    "0 qid:1 1:x|0.5 qid:1 1:1|-1 qid:1 1:1|0 1:1|0 qid:1 0:1|0 qid:1 1:1 1:2|0 qid:1 a:1|0 qid:1 1|0 qid:1 99999999999:1|nan qid:1 1:1|"
    "0 qid:1 1:1\n0 qid:2 1:1\n0 qid:1 1:1|1e30 qid:1 1:1|0 qid:1 1:1e300|inf qid:1 1:1|0 qid:1 1:-4e38"
)


@pytest.mark.parametrize("text", WRONG_LINES.split("|"))
def test_lines_that_are_wrong(tmp_path, text):
    (tmp_path / "m.svm").write_text(text + "\n")
    with pytest.raises(errors.FileFormatError, match=r"m\.svm"):
        FeatureMatrix.from_svmlight(tmp_path / "m.svm", names=["a", "b"])


def test_a_feature_far_out_makes_no_names(tmp_path):
    for number in (99999999999, 1 << 21):
        (tmp_path / "m.svm").write_text(f"0 qid:1 {number}:1\n")
        with pytest.raises(errors.FileFormatError, match=f"feature {number}"):
            FeatureMatrix.from_svmlight(tmp_path / "m.svm")
    with pytest.raises(errors.FileFormatError, match="from_svmlight"):
        FeatureMatrix.load(tmp_path / "m.svm")


def test_group_files(tmp_path):
    (tmp_path / "m").write_text("1 0:1\n0 1:2\n\n2 0:3\n")
    for sizes, error in (
        ("2\n1\n", None),
        ("2\n2\n", errors.FileFormatError),
        ("x\n", errors.FileFormatError),
        ("4\n-1\n", errors.FileFormatError),
        ("9" * 400 + "\n", errors.FileFormatError),
        ("99999999999999999999\n", errors.FileFormatError),
        (f"{2**63 - 1}\n{2**63 - 1}\n5\n", errors.FileFormatError),
    ):
        (tmp_path / "m.query").write_text(sizes)
        if error is None:
            m = FeatureMatrix.from_svmlight(tmp_path / "m", groups=tmp_path / "m.query", first=0)
            assert m.names == ("f0", "f1") and m.offsets.tolist() == [0, 2, 3] and m.values.tolist() == [[1, 0], [0, 2], [3, 0]]
        else:
            with pytest.raises(error):
                FeatureMatrix.from_svmlight(tmp_path / "m", groups=tmp_path / "m.query", first=0)


def test_npz_files_that_are_wrong(tmp_path):
    path = tmp_path / "m.npz"
    matrix().save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), rng.integers(1, 5)).tolist():
            bad[at] = int(rng.integers(256))
        path.write_bytes(bytes(bad[: rng.integers(len(bad))] if rng.random() < 0.3 else bad))
        try:
            FeatureMatrix.load(path)
        except errors.FileFormatError:
            continue
    for name, arrays in {"lacks": {"values": np.zeros((1, 1))}, "objects": {"names": np.array([{}], object)}}.items():
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(errors.FileFormatError):
            FeatureMatrix.load(tmp_path / f"{name}.npz")


WRONG_PARTS = [
    ({"names": ("a", "a")}, "twice"),
    ({"names": ("a", "")}, "empty"),
    ({"names": ("a",)}, r"\[n, 1\]"),
    ({"values": np.full((5, 2), 1e300)}, "beyond float32"),
    ({"offsets": [0, 4]}, "offsets"),
    ({"offsets": []}, "offsets"),
    ({"offsets": [0, 3, 2, 5]}, "offsets"),
    ({"labels": [1, 2]}, "labels"),
    ({"labels": [-1, 0, 0, 0, 0]}, "labels"),
    ({"labels": [0.5] * 5}, "labels"),
    ({"query_ids": ("a",)}, "query_ids"),
    ({"doc_ids": ("a",)}, "doc_ids"),
]


@pytest.mark.parametrize(("change", "text"), WRONG_PARTS)
def test_wrong_parts(change, text):
    with pytest.raises(errors.InputError, match=text):
        matrix(**change)
