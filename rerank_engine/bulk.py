"""Bulk re-ranking: a run over a collection in parts, by processes that each hold the model. Stopped at any moment, it goes on where it was.

A part is a fixed slice of the run's queries and a file that appears whole or not at all, so whoever writes it, and however often something
was killed before, the result is the same bytes: a part's scores depend on nothing but the part. What is finished is never scored again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .core import Query, Ranking, Rescore
from .corpus import Corpus, read_jsonl
from .errors import FileFormatError, InputError, RerankError, UnknownIdError
from .evaluation.measures import trec_order
from .evaluation.trec import read_run, write_run
from .ops.checks import count
from .progress import Progress

SCHEMA, MANIFEST = 1, "job.json"
TRIES = 3  # pools that may break one after the other without a part in between


@dataclass(frozen=True)
class Job:
    """What is asked; plain data, which goes to other processes. run: a file that read_run takes; queries: JSON lines or a BEIR folder;
    corpus: as Corpus.stream; out: a folder; model, options: for rr.load; depth: documents of a list; part: queries of one."""

    run: str
    queries: str
    corpus: str
    out: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 100
    part: int = 50

    def path(self, number: int) -> Path:
        return Path(self.out) / f"part-{number:06d}.json"


class PartScorer:
    """Holds the collection, the run and the model, and does one part after the other: `scorer(number)` -> what it took."""

    def __init__(self, job: Job, threads: int | None = None) -> None:
        from .runtimes import load

        self.job, self.run = job, read_run(job.run)
        self.slices, self.texts = slices(list(self.run), job.part), read_queries(job.queries)
        self.corpus = Corpus(Corpus.stream(job.corpus))
        model: Any = load(job.model, threads=threads, **job.options)
        self.stage = Rescore(model, depth=job.depth)

    def __call__(self, number: int) -> dict[str, Any]:
        """{"part", "queries", "pairs", "seconds", "process"}; a part that is there already takes nothing."""
        begin, path, names = time.perf_counter(), self.job.path(number), self.slices[number]
        told: dict[str, Any] = {"part": number, "queries": len(names), "process": os.getpid()}
        if path.is_file():
            return {**told, "pairs": 0, "seconds": 0.0}
        lists = [self._list(name) for name in names]
        found = self.stage.run([Query(self.texts[name], name) for name in names], lists)
        rows = {name: dict(zip(ranking.doc_ids, ranking.scores.tolist())) for name, ranking in zip(names, found)}
        written(path, rows)
        pairs = sum(min(len(ranking), self.job.depth) for ranking in lists)
        return {**told, "pairs": pairs, "seconds": round(time.perf_counter() - begin, 3)}

    def _list(self, name: str) -> Ranking:
        return Ranking.in_order(self.corpus, [self.corpus.row(document) for document in trec_order(name, self.run[name])])


def rerank_run(
    job: Job,
    *,
    workers: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
    each: Callable[[Job, Sequence[int], int, int | None], Iterator[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Does what is left of the job, and writes `run.trec` into its folder: {"run", "queries", "parts", "done_before", "pairs", "seconds",
    "parts_told": what each took}.

    workers: processes, each with the model; threads: of each, by default an equal share of the processors. each: who does the parts; by
    default processes of this machine, see cluster.on_ray for another. Raises InputError (a folder of another job, a query or a document
    that is not there), what loading raises, RerankError where processes die again and again.
    """
    workers = count("rerank_run: workers", workers)
    names = _checked(job)
    total, begin = len(slices(names, job.part)), time.perf_counter()
    left = [number for number in range(total) if not job.path(number).is_file()]
    done, told = total - len(left), list[dict[str, Any]]()
    before = done
    if progress:
        progress(done, total)
    for row in (each or _processes)(job, left, min(workers, max(1, len(left))), threads) if left else ():
        told.append(row)
        done += 1
        if progress:
            progress(done, total)
    rows: dict[str, dict[str, float]] = {}
    for number in range(total):
        rows |= json.loads(job.path(number).read_text(encoding="utf-8"))
    path = Path(job.out) / "run.trec"
    write_run(path, rows)
    took = {"pairs": sum(row["pairs"] for row in told), "seconds": round(time.perf_counter() - begin, 3)}
    return {"run": str(path), "queries": len(names), "parts": total, "done_before": before, **took, "parts_told": told}


def slices(names: Sequence[str], size: int) -> list[list[str]]:
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def read_queries(path: str) -> dict[str, str]:
    """Query id -> text, of JSON lines with _id (or id) and text, or of the queries.jsonl of a BEIR folder. Raises FileFormatError."""
    root = Path(path)
    if root.is_dir():
        root = next((root / name for name in ("queries.jsonl", "queries.jsonl.gz") if (root / name).is_file()), root / "queries.jsonl")
    out: dict[str, str] = {}
    for where, record in read_jsonl(root):
        name, text = record.get("_id", record.get("id")), record.get("text")
        if not isinstance(name, (str, int)) or not isinstance(text, str) or not text.strip():
            raise FileFormatError(where, got=f"_id {name!r}, text {text!r}", expected="a query with _id and text")
        if str(name) in out:
            raise FileFormatError(where, got=f"the query '{name}' again", expected="every id once")
        out[str(name)] = text
    return out


def _checked(job: Job) -> list[str]:
    """The run's queries. Before any work: the numbers, the queries' texts, the folder, and that the job is the one that was begun in it."""
    count("rerank_run: depth", job.depth)
    count("rerank_run: part", job.part)
    run, texts = read_run(job.run), read_queries(job.queries)
    if missing := [name for name in run if name not in texts]:
        raise UnknownIdError(f"{job.queries}: queries", got=f"no '{missing[0]}', nor {len(missing) - 1} more", expected="all of the run's")
    wanted = {document for documents in run.values() for document in documents}
    for document in Corpus.stream(job.corpus):
        wanted.discard(document.id)
    if wanted:
        got = f"no '{min(wanted)}', nor {len(wanted) - 1} more"
        raise UnknownIdError(f"{job.corpus}: documents", got=got, expected="all of the run's")
    told = {name: value for name, value in asdict(job).items() if name not in ("run", "queries", "corpus", "out")}
    told |= {"schema": SCHEMA, "run": _hash(job.run), "queries": _hash(job.queries), "corpus": _hash(job.corpus)}
    path = Path(job.out) / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        if any(path.parent.glob("part-*.json")):
            raise InputError(f"{job.out}", got="parts of a job that nothing is known of", expected="an empty folder, or one of this job")
        written(path, told)
    elif (found := json.loads(path.read_text(encoding="utf-8"))) != told:
        other = ", ".join(sorted(name for name in told if found.get(name) != told[name]))
        raise InputError(f"{job.out}", got=f"a job with another {other}", expected="this job's folder, or an empty one")
    return list(run)


def _hash(path: str) -> str:
    """Of a file's content, or of those of the JSON lines in a folder."""
    files = sorted(Path(path).glob("*.jsonl*")) if Path(path).is_dir() else [Path(path)]
    made = hashlib.blake2b(digest_size=16)
    for file in files:
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                made.update(block)
    return made.hexdigest()


def written(path: Path, value: object) -> None:
    """JSON that appears whole or not at all, whoever else writes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


_SCORER: PartScorer | None = None  # of this process, if it is one of a pool's


def _begin(job: Job, threads: int | None) -> None:
    global _SCORER
    _SCORER = PartScorer(job, threads)


def _part(number: int) -> dict[str, Any]:
    assert _SCORER is not None
    return _SCORER(number)


def _processes(job: Job, left: Sequence[int], workers: int, threads: int | None) -> Iterator[dict[str, Any]]:
    """By a pool of this machine; a process that dies takes its pool along, and a new one does what is left."""
    from .cpus import available_cpus

    share = max(1, available_cpus() // workers) if threads is None else threads
    waiting, broken = set(left), 0
    while waiting:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(job, share)) as pool:
            futures = [pool.submit(_part, number) for number in sorted(waiting)]
            try:
                for future in as_completed(futures):
                    told = future.result()
                    waiting.discard(told["part"])
                    broken = 0
                    yield told
            except BrokenProcessPool as error:
                broken += 1
                if broken >= TRIES:
                    hint = "Memory may be short: fewer workers need less."
                    raise RerankError("rerank_run", got=f"processes that died {broken} times", expected="parts", hint=hint) from error
            finally:
                for future in futures:
                    future.cancel()


def score_batches(
    batches: Iterable[Any], model: Any, *, query: str = "query", document: str = "document", score: str = "score"
) -> Iterator[Any]:
    """Each batch with a column more: float32 scores of its (query, document) pairs. Batches: pyarrow's Table or RecordBatch, pandas'
    DataFrame, or mappings of columns, whatever comes; so it is what Spark's mapInArrow and mapInPandas, Ray Data's map_batches and plain
    loops call. model: a loaded scorer, or what rr.load takes, loaded once.

    A null or blank document scores the lowest float32. Raises InputError for a column that is missing.
    """
    from .adapters.scoring import pair_scores, scorer_of

    scorer = scorer_of(model)
    for batch in batches:
        columns = list(batch.schema.names) if hasattr(batch, "schema") else list(batch)
        for name in (query, document):
            if name not in columns:
                raise InputError("score_batches", got=f"columns {', '.join(map(str, columns))}", expected=f"a column '{name}'")
        queries, texts = (_values(batch[name]) for name in (query, document))
        values = pair_scores(scorer, [(str(q), "" if t is None else str(t)) for q, t in zip(queries, texts)]).astype(np.float32)
        yield _with_column(batch, score, values)


def _values(column: Any) -> list[Any]:
    """Of an Arrow array, a pandas series, or a list; what is missing is None."""
    values = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    return [None if isinstance(value, float) and value != value else value for value in values]


def _with_column(batch: Any, name: str, values: np.ndarray[Any, Any]) -> Any:
    if hasattr(batch, "append_column"):  # Arrow's Table, and RecordBatch of late
        import pyarrow

        return batch.append_column(name, pyarrow.array(values))
    if hasattr(batch, "assign"):
        return batch.assign(**{name: values})
    return {**batch, name: values}
