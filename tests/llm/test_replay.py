"""Real answers of three models to RankGPT prompts, replayed: no model, the parser and the windows are what is tested."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import rerank_engine as rr
from rerank_engine.evaluation import read_run
from rerank_engine.evaluation.beir import load_beir
from rerank_engine.llm.prompts import clean

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "listwise-replay").is_dir(), reason="../shared/data/listwise-replay is not here")


@pytest.fixture(scope="module")
def dl19():
    split = min(path.name for path in (DATA / "trec-dl19-pool" / "qrels").iterdir()).split(".")[0]
    return load_beir(DATA / "trec-dl19-pool", split)


def lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


@pytest.mark.parametrize(("model", "quality"), [("rankvicuna-7b", 0.6682), ("vicuna-7b-v1.5", 0.5058), ("vicuna-13b-v1.5", 0.5058)])
def test_the_final_orders_are_those_of_rank_llm(dl19, model, quality):
    answers, stored = defaultdict(list), defaultdict(list)
    for row in map(json.loads, lines(DATA / "listwise-replay" / model / "responses.jsonl.gz")):
        answers[row["qid"]].append(row)
    for line in lines(DATA / "listwise-replay" / model / "golden.trec.gz"):
        stored[line.split()[0]].append(line.split()[2])
    run = read_run(DATA / "trec-dl19-pool" / "runs" / "bm25.trec.gz")
    queries = [query for query in dl19.queries if query.id in answers]
    lists = [rr.Ranking.in_order(dl19.corpus, [dl19.corpus.row(doc) for doc in list(run[query.id])[:100]]) for query in queries]
    waiting = {query.text: iter(answers[query.id]) for query in queries}

    def replay(messages):
        row = next(waiting[messages[-1]["content"].removeprefix("Search Query: ").split(". \nRank the")[0]])
        passages = [message["content"].split("] ", 1)[1] for message in messages[3:-1:2]]
        texts = dl19.corpus.texts([dl19.corpus.row(doc) for doc in row["docids"]])  # what the stored window held
        assert passages == [" ".join(clean(text).split()[:300]) for text in texts]
        return row["response"]

    found = rr.Listwise(rr.Chat(replay, cache=0), failed="raise").run(queries, lists)
    assert [one.doc_ids for one in found] == [stored[query.id] for query in queries] and len(found) == 43
    run = {query.id: dict(zip(one.doc_ids, one.scores.tolist())) for query, one in zip(queries, found)}
    assert rr.evaluate(dl19.qrels, run, ["nDCG@10"])["nDCG@10"] == pytest.approx(quality, abs=5e-5)
    told = Counter()
    for one in found:
        told.update(one.facts)
    fine = sum(row["well_formed"] for rows in answers.values() for row in rows)
    assert told["calls"] == 387 and told["ok"] == fine
    assert told["malformed"] + told["unreadable"] + told["refused"] == 387 - fine
