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
