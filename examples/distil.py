"""Fine-tune a small cross-encoder for a collection without labels, by a stronger re-ranker, and see what it was worth.

    python examples/distil.py COLLECTION OUT [--student FOLDER] [--teacher MODEL] [--questions 250] [--json]

1. Questions: titles of the collection's documents, or their first sentences; the collection's own queries are held out for the report.
2. Negatives: each question's list by BM25; a few documents from its top, where they are hard, and from further down.
3. Labels: the teacher's scores of these pairs; no judgment is read. A teacher is whatever scores better: here a larger cross-encoder.
4. Training: sentence-transformers' CrossEncoderTrainer, mean squared error on the teacher's logits, standardised.
5. Report: nDCG@10 of BM25, the student before and after, and the teacher, on the held-out queries, by this package; with a paired test of
   after against before and against the teacher.

Needs: pip install '.[demo]' 'sentence-transformers[train]', torch. The student is a BERT-like model for transformers, with or without a
head for one label; COLLECTION in BEIR's layout. Mean squared error on logits: Hofstaetter et al., 2020.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import rerank_engine as rr
from rerank_engine.evaluation.beir import Collection, load_beir

DEPTH = 50  # documents of a list that are re-ranked in the report, and mined from


def training_questions(corpus: rr.Corpus, n: int, seed: int) -> list[tuple[str, int]]:
    """(question, the row of the document it was made of): a title, else the first sentence, of 4 to 30 words."""
    out = []
    for row in np.random.default_rng(seed).permutation(len(corpus)).tolist():
        document = corpus[row]
        text = document.title or re.split(r"(?<=[.!?])\s", document.text, maxsplit=1)[0]
        if 4 <= len(text.split()) <= 30:
            out.append((" ".join(text.split()), row))
        if len(out) == n:
            break
    return out


def mined(retriever: rr.BM25, corpus: rr.Corpus, questions: Sequence[tuple[str, int]], each: int, seed: int) -> list[tuple[str, str]]:
    """(question, passage) pairs: half of `each` from the top 10 of a question's list, half from below. The document that a question was
    made of stands without it: else the words alone would give the pair away."""
    rng, out = np.random.default_rng(seed), list[tuple[str, str]]()
    for (question, source), ranking in zip(questions, retriever.run([question for question, _ in questions])):
        top, below = ranking.ids[:10], ranking.ids[10:DEPTH]
        for rows, most in ((top, each - each // 2), (below, each // 2)):
            for row in rng.permutation(rows)[:most].tolist():
                passage = " ".join(corpus[row].passage.split())
                out.append((question, passage.replace(question, "", 1) if row == source else passage))
    return [(question, passage) for question, passage in out if passage.strip()]


def labelled(teacher: rr.CrossEncoder, pairs: Sequence[tuple[str, str]]) -> dict[str, list[Any]]:
    scores = teacher.predict(pairs).values.astype(float)
    labels = (scores - scores.mean()) / max(scores.std(), 1e-6)  # a head that starts at 0 need not learn the teacher's zero first
    return {"query": [query for query, _ in pairs], "passage": [text for _, text in pairs], "label": labels.tolist()}


def trained(student: Any, data: dict[str, list[Any]], out: Path, args: argparse.Namespace) -> None:
    """Writes the trained student to `out`."""
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import MSELoss

    how = CrossEncoderTrainingArguments(
        output_dir=str(out / "checkpoints"), num_train_epochs=args.epochs, per_device_train_batch_size=16, learning_rate=args.rate,
        warmup_steps=0.1, lr_scheduler_type="linear", seed=args.seed, save_strategy="no", logging_steps=20, report_to="none", use_cpu=True,
    )  # fmt: skip
    CrossEncoderTrainer(model=student, args=how, train_dataset=Dataset.from_dict(data), loss=MSELoss(student)).train()
    student.save_pretrained(str(out))


def student_of(folder: str, max_length: int) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(folder, num_labels=1, max_length=max_length, device="cpu")


def quality(collection: Collection, lists: Sequence[rr.Ranking], scorer: rr.Scorer | None) -> dict[str, dict[str, float]]:
    """A run over the held-out queries: the lists of BM25, re-ranked by the scorer."""
    ranked = lists if scorer is None else rr.Rescore(scorer, depth=DEPTH).run(collection.queries, lists)
    return {query.id or "": dict(zip(ranking.doc_ids, ranking.scores.tolist())) for query, ranking in zip(collection.queries, ranked)}


def report(collection: Collection, runs: dict[str, dict[str, dict[str, float]]], told: dict[str, Any]) -> dict[str, Any]:
    found = rr.compare(collection.qrels, runs, ["nDCG@10"], baseline="after")
    rows = [asdict(row) for row in found.rows]
    return {
        **told,
        "depth": DEPTH,
        "held_out_queries": len(collection.queries),
        "nDCG@10": {row["run"]: row["mean"] for row in rows},
        "against_after": [row for row in rows if row["run"] != "after"],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--student", default="sentence-transformers/all-MiniLM-L6-v2", help="a folder or a hub name for transformers")
    parser.add_argument("--teacher", default="ms-marco-MiniLM-L-12-v2", help="what rr.load takes")
    parser.add_argument("--questions", type=int, default=250)
    parser.add_argument("--each", type=int, default=8, help="documents of a question")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a pair, in training and after it")
    parser.add_argument("--held-out", type=int, default=100, help="queries of the report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    args, begun = arguments(), time.monotonic()
    splits = sorted(path.name.split(".")[0] for path in (args.collection / "qrels").iterdir())
    split = "test" if "test" in splits else splits[0]
    whole = load_beir(args.collection, split)
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(whole.queries))[: args.held_out])
    queries = [whole.queries[i] for i in chosen]
    collection = Collection(whole.corpus, queries, {str(query.id): whole.qrels[str(query.id)] for query in queries}, {})
    retriever = rr.BM25(rr.BM25Index.build(whole.corpus, analyzer="english"), k=DEPTH)
    teacher = rr.load(args.teacher, max_length=args.max_length)
    questions = training_questions(whole.corpus, args.questions, args.seed)
    pairs = mined(retriever, whole.corpus, questions, args.each, args.seed)
    data = labelled(teacher, pairs)
    lists = retriever.run(collection.queries)

    args.out.mkdir(parents=True, exist_ok=True)
    student = student_of(args.student, args.max_length)
    student.save_pretrained(str(args.out / "before"))
    trained(student, data, args.out / "after", args)
    runs = {"bm25": quality(collection, lists, None), "teacher": quality(collection, lists, teacher)}
    for name in ("before", "after"):
        runs[name] = quality(collection, lists, rr.load(args.out / name, max_length=args.max_length))
    about = {name: Path(getattr(args, name)).name for name in ("collection", "student", "teacher")}
    about |= {"pairs": len(pairs), "epochs": args.epochs, "max_length": args.max_length, "seed": args.seed, "threads": os.cpu_count()}
    told = report(collection, runs, {**about, "minutes": round((time.monotonic() - begun) / 60, 1)})
    (args.out / "report.json").write_text(json.dumps(told, indent=1))
    if args.json:
        print(json.dumps(told, indent=1))
        return
    for name, value in told["nDCG@10"].items():
        print(f"{name:10} nDCG@10 {value:.4f}")
    for row in told["against_after"]:
        numbers = f"{row['difference']:+.4f}, 95 % {row['low']:+.4f} to {row['high']:+.4f}"
        print(f"{row['run']} against after: {numbers}, p {row['p_corrected']:.3f}")


if __name__ == "__main__":
    main()
