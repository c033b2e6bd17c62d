from __future__ import annotations

import pytest

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("pyterrier", reason="python-terrier is not installed")

from words_scorer import Words  # noqa: E402

from rerank_engine.adapters.pyterrier import RerankTransformer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = ["black coffee", "green tea is good for health", "tea"]


@pytest.fixture
def frame():
    rows = [
        {"qid": q, "query": query, "docno": f"d{i}", "text": text}
        for q, query in (("1", "green tea"), ("2", "coffee"))
        for i, text in enumerate(TEXTS)
    ]
    return pd.DataFrame(rows)


def test_a_frame_is_re_ranked(frame):
    before = frame.copy()
    found = RerankTransformer(Words())(frame)
    assert found[["qid", "docno", "score", "rank"]].values.tolist()[:4] == [
        ["1", "d1", 2, 0],
        ["1", "d2", 1, 1],
        ["1", "d0", 0, 2],
        ["2", "d0", 1, 0],
    ]
    pd.testing.assert_frame_equal(frame, before)
    assert len(RerankTransformer(Words())(frame.head(0))) == 0


def test_it_composes(frame):
    assert ((RerankTransformer(Words()) % 1)(frame)["docno"].tolist()) == ["d1", "d0"]


def test_pyterrier_can_look_into_it():
    import pyterrier as pt

    made = RerankTransformer(Words())
    assert [sorted(columns) for columns in pt.inspect.transformer_inputs(made)] == [["docno", "qid", "query", "text"]]
    assert {"score", "rank"} <= set(pt.inspect.transformer_outputs(made, ["qid", "query", "docno", "text"]))
    with pytest.raises(pt.validate.InputValidationError):
        made(pd.DataFrame([{"qid": "1", "query": "q", "docno": "d"}]))


def test_in_an_experiment(frame):
    """PyTerrier's own evaluation of a pipeline: the first of each list is the relevant one only after re-ranking."""
    import pyterrier as pt

    topics = frame[["qid", "query"]].drop_duplicates()
    first = pt.Transformer.from_df(frame.assign(score=-frame.index.to_numpy(float), rank=frame.index % 3))
    qrels = pd.DataFrame([{"qid": "1", "docno": "d1", "label": 1}, {"qid": "2", "docno": "d0", "label": 1}])
    found = pt.Experiment([first, first >> RerankTransformer(Words())], topics, qrels, ["recip_rank"], names=["first", "ours"])
    assert dict(zip(found["name"], found["recip_rank"])) == {"first": 0.75, "ours": 1.0}
