"""What a reader is given by the first k passages: whether an answer is among them, and how many of them only distract.

Texts are compared as SQuAD compares answers (Rajpurkar et al., EMNLP 2016): in lower case, without punctuation, without the articles a, an
and the, white space evened out. An answer is in a text if its words stand there as whole words, one after the other. As answers are looked
for inside of texts here, punctuation (ASCII's symbols and all of Unicode's) ends a word, where SQuAD deletes it and so joins "Paris-based";
and each character of a script without spaces is a word by itself.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

from ..core import Ranking
from ..corpus import Corpus
from ..errors import InputError
from ..ops.checks import count, instance
from ..text.segment import CJK, SOUTH_EAST_ASIAN
from .measures import Qrels, trec_order

Answers = Mapping[str, Sequence[str]]
Ranked = Mapping[str, Ranking] | Mapping[str, Mapping[str, float]]
"""Query id -> a Ranking, or a run's scores (document id -> score), whose texts a Corpus then has to hold."""


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    marks = "".join(ch for ch in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(ch)[0] == "P")
    punctuation = re.compile("[" + re.escape(string.punctuation + marks) + "]")
    return punctuation, re.compile(r"\b(?:a|an|the)\b"), re.compile(f"([{CJK}{SOUTH_EAST_ASIAN}])")


def normalised(text: str) -> str:
    """The words that are compared, with one space between two of them."""
    punctuation, articles, alone = _patterns()
    return " ".join(alone.sub(r" \1 ", articles.sub(" ", punctuation.sub(" ", text.lower()))).split())


def contains_answer(answers: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether one of the answers is in one of the texts. One of which nothing is left, such as "The", is in none."""
    wanted = [f" {words} " for words in map(normalised, answers) if words]
    return any(answer in passage for passage in (f" {normalised(text)} " for text in texts) for answer in wanted)


def answer_in_context(answers: Answers, rankings: Ranked, k: int, corpus: Corpus | None = None) -> float:
    """The share of the queries that have a gold answer of which one is in the passages (title and text) of the first k documents.

    answers: query id -> gold answers; queries with none are left out, and one without a ranking has no answer in its context.
    rankings: by query id; corpus: the texts, where they are runs. Raises InputError (nothing to count, k), UnknownIdError.
    """
    found = answers_found(answers, rankings, k, corpus)
    return sum(found.values()) / len(found)


def answers_found(answers: Answers, rankings: Ranked, k: int, corpus: Corpus | None = None) -> dict[str, bool]:
    """`answer_in_context` query by query."""
    count("answer_in_context: k", k)
    instance("answer_in_context: answers", answers, Mapping)
    asked = {query: gold for query, gold in answers.items() if gold}
    if not asked:
        raise InputError("answer_in_context: answers", got="no query with an answer", expected="one at least")
    return {query: contains_answer(gold, [text for _, text in _top(rankings, query, k, corpus)]) for query, gold in asked.items()}


def distractor_rate(
    qrels: Qrels, rankings: Ranked, k: int, answers: Answers | None = None, corpus: Corpus | None = None, rel: int = 1
) -> float:
    """The share of the first k documents that only distract: the mean over the queries that have documents.

    A distractor is judged below `rel` or not at all, and holds none of its query's gold answers, where `answers` has some. A shorter list's
    share is of what it has. Queries are those of `qrels`. Raises InputError (no documents for any of them, k), UnknownIdError.
    """
    shares = distractor_shares(qrels, rankings, k, answers, corpus, rel)
    return sum(shares.values()) / len(shares)


def distractor_shares(
    qrels: Qrels, rankings: Ranked, k: int, answers: Answers | None = None, corpus: Corpus | None = None, rel: int = 1
) -> dict[str, float]:
    """`distractor_rate` query by query, for those that have documents."""
    count("distractor_rate: k", k)
    count("distractor_rate: rel", rel)
    shares = {}
    for query, judged in qrels.items():
        gold = () if answers is None else answers.get(query, ())
        if top := _top(rankings, query, k, corpus, texts=bool(gold)):
            distract = (judged.get(d, 0) < rel and not (gold and contains_answer(gold, [text])) for d, text in top)
            shares[query] = sum(distract) / len(top)
    if not shares:
        raise InputError("distractor_rate: rankings", got="no documents for any judged query", expected="the same query ids in both")
    return shares


def _top(rankings: Ranked, query: str, k: int, corpus: Corpus | None, texts: bool = True) -> list[tuple[str, str]]:
    """(id, passage) of the first k documents; without passages where `texts` is False."""
    ranked = rankings.get(query)
    if ranked is None:
        return []
    if isinstance(ranked, Ranking):
        documents = ranked.head(k).documents
        return [(document.id, document.passage) for document in documents]
    ids = trec_order(query, ranked)[:k]
    if not texts:
        return [(doc_id, "") for doc_id in ids]
    if corpus is None:
        raise InputError("corpus", got="none", expected="the Corpus whose texts the runs rank")
    return [(doc_id, corpus[corpus.row(doc_id)].passage) for doc_id in ids]
