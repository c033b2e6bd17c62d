"""What a reader is given by the first k passages: whether an answer is among them, and how many of them only distract.

Texts are compared much as SQuAD compares answers (Rajpurkar et al., EMNLP 2016): letter case folded, compatible characters made one (NFKC),
without the articles a, an and the, without punctuation (ASCII's symbols and all of Unicode's), white space evened out. An answer is in a
text if its words stand there as whole words, one after the other, in one of two forms:

    deleted  punctuation is deleted, as SQuAD does: "U.S." is "US", "1,000" is "1000", "O'Neill" is "ONeill" (and "1.5" is "15")
    split    punctuation ends a word, since answers are looked for inside of texts here: "Paris" is in "Paris-based"; and each character of
             a script without spaces is a word by itself

An article is a word of the text as it is written, with or without punctuation around it: the last letter of "U.S.A." is none.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from ..core import Ranking
from ..corpus import Corpus
from ..errors import InputError
from ..ops.checks import count, instance
from ..text.segment import CJK, SOUTH_EAST_ASIAN, normalise
from .measures import Qrels, trec_order

Answers = Mapping[str, Sequence[str]]
Ranked = Mapping[str, Ranking] | Mapping[str, Mapping[str, float]]
"""Query id -> a Ranking, or a run's scores (document id -> score), whose texts a Corpus then has to hold."""


@lru_cache(maxsize=1)
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    marks = "".join(ch for ch in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(ch)[0] == "P")
    mark = "[" + re.escape(string.punctuation + marks) + "]"
    articles = re.compile(rf"(?<!\S){mark}*(?:a|an|the){mark}*(?!\S)")
    return re.compile(mark), articles, re.compile(f"([{CJK}{SOUTH_EAST_ASIAN}])")


def forms(text: str) -> tuple[str, str]:
    """The words that are compared, with one space between two of them and around them all: punctuation deleted, and split at it."""
    punctuation, articles, alone = _patterns()
    words = articles.sub(" ", normalise(text))
    deleted, split = punctuation.sub("", words), alone.sub(r" \1 ", punctuation.sub(" ", words))
    return f" {' '.join(deleted.split())} ", f" {' '.join(split.split())} "


def contains_answer(answers: Sequence[str], texts: Sequence[str]) -> bool:
    """Whether one of the answers is in one of the texts. One of which nothing is left, such as "The", is in none. Raises InputError."""
    wanted = [pair for pair in map(forms, _strings("answers", answers)) if pair[1].strip()]
    return any(
        deleted in passage_deleted or split in passage_split
        for passage_deleted, passage_split in map(forms, _strings("texts", texts))
        for deleted, split in wanted
    )


def _strings(name: str, values: Sequence[str]) -> Sequence[str]:
    if isinstance(values, str):
        raise InputError(name, got="one string", expected="a list of strings", hint=f"Write [{values[:60]!r}].")
    if not isinstance(values, Collection) or not all(isinstance(value, str) for value in values):
        raise InputError(name, got=values, expected="a list of strings")
    return values


def _checked(answers: Answers) -> Answers:
    instance("answers", answers, Mapping)
    for query, gold in answers.items():
        _strings(f"answers of query {query!r}", gold)
    return answers


def answer_in_context(answers: Answers, rankings: Ranked, k: int, corpus: Corpus | None = None) -> float:
    """The share of the queries that have a gold answer of which one is in the passages (title and text) of the first k documents.

    answers: query id -> gold answers; queries with none are left out, and one without a ranking has no answer in its context.
    rankings: by query id; corpus: the texts, where they are runs. Raises InputError (nothing to count, answers that are no lists of
    strings, k), UnknownIdError.
    """
    found = answers_found(answers, rankings, k, corpus)
    return sum(found.values()) / len(found)


def answers_found(answers: Answers, rankings: Ranked, k: int, corpus: Corpus | None = None) -> dict[str, bool]:
    """`answer_in_context` query by query."""
    count("answer_in_context: k", k)
    asked = {query: gold for query, gold in _checked(answers).items() if gold}
    if not asked:
        raise InputError("answer_in_context: answers", got="no query with an answer", expected="one at least")
    return {query: contains_answer(gold, [text for _, text in _top(rankings, query, k, corpus)]) for query, gold in asked.items()}


def distractor_rate(
    qrels: Qrels, rankings: Ranked, k: int, answers: Answers | None = None, corpus: Corpus | None = None, rel: int = 1
) -> float:
    """The share of the first k documents that only distract: the mean over the queries that have documents.

    A distractor is judged below `rel` or not at all, and holds none of its query's gold answers, where `answers` has some. A shorter list's
    share is of what it has. Queries are those of `qrels`. Raises InputError (no documents for any of them, answers that are no lists of
    strings, k), UnknownIdError.
    """
    shares = distractor_shares(qrels, rankings, k, answers, corpus, rel)
    return sum(shares.values()) / len(shares)


def distractor_shares(
    qrels: Qrels, rankings: Ranked, k: int, answers: Answers | None = None, corpus: Corpus | None = None, rel: int = 1
) -> dict[str, float]:
    """`distractor_rate` query by query, for those that have documents."""
    count("distractor_rate: k", k)
    count("distractor_rate: rel", rel)
    known = {} if answers is None else _checked(answers)
    shares = {}
    for query, judged in qrels.items():
        gold = known.get(query, ())
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
