"""Answers in passages: what counts as the same text, and the shares of queries and of documents."""

from __future__ import annotations

import pytest

from rerank_engine.core import Ranking
from rerank_engine.corpus import Corpus, Document
from rerank_engine.errors import InputError, UnknownIdError
from rerank_engine.evaluation import answer_in_context, answers_found, contains_answer, distractor_rate, distractor_shares


@pytest.mark.parametrize(
    ("answer", "text", "same"),
    [
        ("The Paris", "in PARIS, 1900", True),
        ("Paris", "a Paris-based firm", True),
        ("Paris", "“Paris”", True),
        ("10", "it was 2010", False),
        ("art", "a party", False),
        ("$1,190 (est.)", "about 1 190 est all in all", True),
        ("United States of America", "the united states\n of  the America", True),
        ("other", "an other-worldly", True),
        ("theory", "the ory", False),
        ("Łódź", "łódź.", True),
        ("长城", "这是长城的一部分", True),
        ("长江", "长城 江", False),
        ("Bangkok กรุงเทพ", "bangkokกรุงเทพมหานคร", True),
        ("The", "the end", False),
        ("...", "...", False),
        ("", "x", False),
        ("U.S.A.", "The U.S. Army", False),
        ("U.S.A.", "in the USA", True),
        ("U.S.", "the US government", True),
        ("US", "The U.S. Army", True),
        ("U.S. Army", "an army of the U.S.", False),
        ("1000", "about 1,000 men", True),
        ("1,000", "1000", True),
        ("ONeill", "by O'Neill", True),
        ("O’Neill", "by ONeill.", True),
        ("O'Neill", "by O’Neill", True),
        ("Caf\u00e9 M\u00fcller", "the Cafe\u0301 Mu\u0308ller", True),
        ("Cafe\u0301", "Caf\u00e9", True),
        ("\uff12\uff10\uff10\uff10", "in 2000", True),
        ("The Beatles", "by “The Beatles”", True),
        ("“The Beatles”", "Beatles", True),
        ("A.N. Wilson", "Woodrow Wilson", False),
        ("US", "a U.S.-led force", False),
        ("長城", "很長，城外", True),
        ("長江", "很長，城江", False),
    ],
)
def test_what_counts_as_found(answer: str, text: str, same: bool) -> None:
    assert contains_answer([answer], [text]) is same
    assert contains_answer(["nowhere", answer], ["", text]) is same


CORPUS = Corpus([Document("a", "Rome"), Document("b", "it is old", "Paris"), Document("c", "Berlin"), Document("d", "Bern")])
ANSWERS = {"q1": ["Paris", "Paris, France"], "q2": ["Bern"], "q3": ["Oslo"], "q4": []}
RUNS = {"q1": {"a": 2.0, "b": 1.0}, "q2": {"d": 9.0}, "q4": {"a": 1.0}}
RANKINGS = {query: Ranking.in_order(CORPUS, [CORPUS.row(d) for d in scores]) for query, scores in RUNS.items()}


def test_the_share_of_queries_with_an_answer() -> None:
    assert answers_found(ANSWERS, RANKINGS, 1) == {"q1": False, "q2": True, "q3": False}
    assert answer_in_context(ANSWERS, RANKINGS, 1) == pytest.approx(1 / 3)
    assert answer_in_context(ANSWERS, RANKINGS, 2) == answer_in_context(ANSWERS, RUNS, 2, CORPUS) == pytest.approx(2 / 3)


def test_the_share_of_documents_that_distract() -> None:
    qrels = {"q1": {"a": 0, "b": 0}, "q2": {"d": 1}, "q4": {"a": 1}, "q5": {"a": 1}}
    assert distractor_shares(qrels, RANKINGS, 2) == {"q1": 1.0, "q2": 0.0, "q4": 0.0}
    assert distractor_shares(qrels, RANKINGS, 2, ANSWERS) == {"q1": 0.5, "q2": 0.0, "q4": 0.0}, "what holds the answer helps, judged or not"
    assert distractor_rate(qrels, RUNS, 2) == pytest.approx(1 / 3)
    assert distractor_rate(qrels, RUNS, 2, ANSWERS, CORPUS) == distractor_rate(qrels, RANKINGS, 2, ANSWERS) == pytest.approx(1 / 6)
    assert distractor_rate(qrels, RUNS, 2, rel=2) == 1.0


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="no query with an answer"):
        answer_in_context({"q": []}, RANKINGS, 3)
    with pytest.raises(InputError, match="k: got 0"):
        answer_in_context(ANSWERS, RANKINGS, 0)
    with pytest.raises(InputError, match="the Corpus"):
        answer_in_context(ANSWERS, RUNS, 3)
    with pytest.raises(UnknownIdError, match="'x'"):
        answer_in_context({"q": ["y"]}, {"q": {"x": 1.0}}, 3, CORPUS)
    with pytest.raises(InputError, match="no documents"):
        distractor_rate({"other": {"a": 1}}, RUNS, 3)
    for answers in ({"q1": "Paris"}, {"q1": ["Rome"], "q4": "Oslo"}):
        for call in (lambda a: answers_found(a, RANKINGS, 3), lambda a: distractor_shares({"q1": {"a": 1}}, RANKINGS, 3, a)):
            with pytest.raises(InputError, match=r"answers of query 'q[14]': got one string; expected a list of strings. Write \['"):
                call(answers)
    with pytest.raises(InputError, match="answers: got one string"):
        contains_answer("Paris", ["Paris"])
    with pytest.raises(InputError, match="texts: got one string"):
        contains_answer(["Paris"], "Paris")
    with pytest.raises(InputError, match="answers of query 'q1'"):
        answers_found({"q1": [7]}, RANKINGS, 3)  # type: ignore[list-item]
    with pytest.raises(InputError, match="answers: got list; expected a Mapping"):
        distractor_shares({"q1": {"a": 1}}, RANKINGS, 3, [["Paris"]])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="k: got True"):
        distractor_rate({"q1": {"a": 1}}, RUNS, True)
