"""Bulk re-ranking: a run over a collection in parts, by processes that each hold the model. Stopped at any moment, it goes on where it was.

A part is a fixed slice of the run's queries and a file that appears whole or not at all, so whoever writes it, and however often something
was killed before, the result is the same bytes: a part's scores depend on nothing but the part. What is finished is never scored again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .core import LOWEST, Query, Ranking, Rescore, with_tail
from .corpus import Corpus
from .errors import FileFormatError, InputError, RerankError, UnknownIdError
from .evaluation.beir import query_records
from .evaluation.measures import trec_order
from .evaluation.trec import read_run, write_run
from .ops.checks import count
from .parquet import require_parquet
from .progress import Progress
from .stored import write_json

SCHEMA, MANIFEST = 2, "job.json"
FORMS = ("trec", "jsonl", "parquet")  # of the whole run
CALLED = {  # what job.json tells of a job -> how a command and a script say it
    **{name: f"--{name} / Job.{name}" for name in ("queries", "corpus", "model", "depth", "part")},
    "run": "RUN / Job.run",
    "version": "rerank_engine's version",
    "schema": f"the schema of {MANIFEST}",
}
TRIES, MOST_TRIES = 3, 20  # pools that may break one after the other without a part in between, and in all


@dataclass(frozen=True)
class Job:
    """What is asked; plain data, which goes to other processes. run: a file that read_run takes; queries: as query_records;
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
        self.identity = json.loads((Path(job.out) / MANIFEST).read_text(encoding="utf-8"))["id"]

    def __call__(self, number: int) -> dict[str, Any]:
        """{"part", "queries", "pairs", "seconds", "process"}; of a part that is there already what its file says, for whoever made it may
        have been killed before it told."""
        begin, path, names = time.perf_counter(), self.job.path(number), self.slices[number]
        told: dict[str, Any] = {"part": number, "queries": len(names), "process": os.getpid()}
        if path.is_file():
            return {**told, **_read(path)["took"]}
        lists = [self._list(name) for name in names]
        found = self.stage.run([Query(self.texts[name], name) for name in names], lists)
        rows = {name: dict(zip(ranking.doc_ids, falling(ranking.scores).tolist())) for name, ranking in zip(names, found)}
        pairs = sum(min(len(ranking), self.job.depth) for ranking in lists)
        told |= {"pairs": pairs, "seconds": round(time.perf_counter() - begin, 3)}
        took = {name: told[name] for name in ("pairs", "seconds", "process")}
        write_json(path, {"job": self.identity, "by": self.stage.backend, "took": took, "rows": rows})
        return told

    def _list(self, name: str) -> Ranking:
        return Ranking.in_order(self.corpus, [self.corpus.row(document) for document in trec_order(name, self.run[name])])


def rerank_run(
    job: Job,
    *,
    workers: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
    each: Callable[[Job, Sequence[int], int, int | None], Iterator[dict[str, Any]]] | None = None,
    form: str = "trec",
) -> dict[str, Any]:
    """Does what is left of the job, and writes `run.<form>` into its folder: {"run", "queries", "parts", "done_before", "pairs", "seconds",
    "parts_told": what each took}.

    workers: processes, each with the model; threads: of each, by default an equal share of the processors. each: who does the parts; by
    default processes of this machine, see cluster.on_ray for another. form: one of FORMS, as write_run writes them. Raises InputError (a
    folder of another job, a query or a document that is not there), MissingDependency (Parquet without pyarrow), what loading raises,
    RerankError where processes die again and again.
    """
    workers = count("rerank_run: workers", workers)
    if form not in FORMS:
        raise InputError("rerank_run: form", got=form, expected="one of " + ", ".join(FORMS))
    if form == "parquet":
        require_parquet("rerank_run")
    names = _checked(job, threads)
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
    path = Path(job.out) / f"run.{form}"
    write_run(path, _joined(job, total))
    took = {"pairs": sum(row["pairs"] for row in told), "seconds": round(time.perf_counter() - begin, 3)}
    return {"run": str(path), "queries": len(names), "parts": total, "done_before": before, **took, "parts_told": told}


def falling(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """A ranking's scores made to fall from each to the next, by as little as float32 can: files of runs know no other order. What had
    nothing to be compared stands just below the last that had."""
    head = scores[scores > LOWEST / 2]
    out = with_tail(head, len(scores) - len(head))
    for i in range(1, len(out)):
        if out[i] >= out[i - 1]:
            out[i] = np.nextafter(out[i - 1], np.float32(-np.inf))
    return out


def _joined(job: Job, total: int) -> dict[str, dict[str, float]]:
    """All parts. Raises FileFormatError for one that is broken, of another job, or by another runtime than the others."""
    rows, first = dict[str, dict[str, float]](), ""
    identity = _read(Path(job.out) / MANIFEST)["id"]
    for number in range(total):
        path = job.path(number)
        part = _read(path)
        first = first or str(part.get("by"))
        if part.get("job") != identity or part.get("by") != first or not isinstance(part.get("rows"), dict):
            got = f"a part by {part.get('by')!r} of job {part.get('job')!r}"
            raise FileFormatError(str(path), got=got, expected=f"by {first!r} of {identity!r}", hint="Delete it: it is scored again.")
        rows |= part["rows"]
    return rows


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = "Delete it: it is made again."
        raise FileFormatError(str(path), got=str(error), expected="what rerank-run wrote", hint=hint) from error
    if not isinstance(found, dict):
        raise FileFormatError(str(path), got=type(found).__name__, expected="a JSON object", hint="Delete it: it is made again.")
    return found


def slices(names: Sequence[str], size: int) -> list[list[str]]:
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def read_queries(path: str) -> dict[str, str]:
    """Query id -> text. Raises what query_records does, and FileFormatError for a blank text or an id that comes again."""
    out: dict[str, str] = {}
    for where, name, text, _ in query_records(path):
        if not text.strip():
            raise FileFormatError(where, got=f"the text {text!r}", expected="a query with words")
        if name in out:
            raise FileFormatError(where, got=f"the query '{name}' again", expected="every id once")
        out[name] = text
    return out


def _checked(job: Job, threads: int | None) -> list[str]:
    """The run's queries. Before any work: the numbers, the queries' texts, the folder, and that the job is the one that was begun in it."""
    count("rerank_run: depth", job.depth)
    if threads is not None:
        count("rerank_run: threads", threads)
    count("rerank_run: part", job.part)
    run, texts = read_run(job.run), read_queries(job.queries)
    if missing := [name for name in run if name not in texts]:
        raise UnknownIdError(f"{job.queries}: queries", got=_lacking(missing), expected="all of the run's")
    wanted = {document for documents in run.values() for document in documents}
    for document in Corpus.stream(job.corpus):
        wanted.discard(document.id)
    if wanted:
        raise UnknownIdError(f"{job.corpus}: documents", got=_lacking(wanted), expected="all of the run's")
    for name in (*run, *{document for documents in run.values() for document in documents}):
        if not name or name.split() != [name]:
            raise InputError(f"{job.run}: ids", got=repr(name), expected="ids without white space: TREC's files hold no others")
    if not any(run.values()):
        raise InputError(f"{job.run}", got="no document", expected="one at least")
    _claim(job)
    return list(run)


def _lacking(ids: Collection[str]) -> str:
    """Of ids, one at least, that are not there: the first, and how many more."""
    return f"no '{min(ids)}'" + (f", nor {len(ids) - 1} more" if len(ids) > 1 else "")


def _claim(job: Job) -> None:
    """Makes the folder this job's, or sees that it is. Raises InputError."""
    told = {name: value for name, value in asdict(job).items() if name in ("options", "depth", "part")}
    told |= {"schema": SCHEMA, "version": __version__, "model": _model(job.model)}
    told |= {name: _hash(Path(getattr(job, name))) for name in ("run", "queries", "corpus")}
    path, expected = Path(job.out) / MANIFEST, "this job's folder, or an empty one"
    try:
        told = json.loads(json.dumps({**told, "id": hashlib.blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()}))
    except (TypeError, ValueError) as error:
        raise InputError("Job: options", got=str(error), expected="what JSON can hold") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() and any(path.parent.glob("part-*.json")):
            raise InputError(f"{job.out}", got="parts of a job that nothing is known of", expected=expected)
        mine = path.with_name(f".{MANIFEST}.{uuid4().hex}")
        write_json(mine, told)
        try:
            os.link(mine, path)  # unlike a renaming, it fails where another has been there first
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    except OSError as error:
        raise InputError(f"{job.out}", got=str(error), expected="a folder that can be written to") from error
    found = _read(path)
    if other := [name for name in sorted(told) if name != "id" and found.get(name) != told[name]]:
        both = [(name, CALLED[name], told[name], found.get(name)) for name in other if name != "options"]
        if "options" in other:
            mine, before = told["options"], found.get("options") or {}
            names = sorted(name for name in {*mine, *before} if mine.get(name) != before.get(name))
            both += [("options", f"--{name} / Job.options", mine.get(name), before.get(name)) for name in names]
        said = [
            f"{called}: got {_shown(name, one)}; expected {_shown(name, two)}, as the folder's job has it"
            for name, called, one, two in both
        ]
        hint = "Take another folder (--out / Job.out), or the same as before."
        raise InputError(f"{job.out} is of another job. " + ". ".join(said), hint=hint)


def _shown(name: str, value: object) -> str:
    """Of what job.json tells: files by the first digits of their hash, what is long by its beginning and a hash."""
    if value is None:
        return "nothing"
    if name in ("run", "queries", "corpus", "model"):
        return f"files of hash {str(value)[:8]}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... (hash {hashlib.blake2b(text.encode(), digest_size=4).hexdigest()})"


def _model(name: str) -> str:
    """The content of a model's files, whatever the folder is called. Raises what `resolve` does."""
    from .runtimes.files import resolve

    folder, made = resolve(name).folder, hashlib.blake2b(digest_size=16)
    for file in sorted(path for pattern in ("*.json", "*.onnx", "*.safetensors", "onnx/*.onnx") for path in folder.glob(pattern)):
        made.update(f"{file.relative_to(folder).as_posix()} {_hash(file)}\n".encode())
    return made.hexdigest()


def _hash(path: Path) -> str:
    """Of a file's content, or of those of the JSON lines and Parquet in a folder."""
    files = sorted(path.glob("*.jsonl*")) + sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    made = hashlib.blake2b(digest_size=16)
    for file in files:
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                made.update(block)
    return made.hexdigest()


_SCORER: PartScorer | Exception | None = None  # of this process, if it is one of a pool's


def _begin(job: Job, threads: int | None) -> None:
    """In a process of the pool, which ends with its parent, however that ends; what goes wrong here is told by the first part."""
    global _SCORER
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        _SCORER = PartScorer(job, threads)
    except Exception as error:
        _SCORER = error


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _part(number: int) -> dict[str, Any]:
    if isinstance(_SCORER, Exception):
        raise _SCORER
    assert _SCORER is not None
    return _SCORER(number)


def _processes(job: Job, left: Sequence[int], workers: int, threads: int | None) -> Iterator[dict[str, Any]]:
    """By a pool of this machine; a process that dies takes its pool along, and a new one does what is left."""
    from .cpus import available_cpus

    share = max(1, available_cpus() // workers) if threads is None else threads
    waiting, broken, ever = set(left), 0, 0
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
                broken, ever = broken + 1, ever + 1
                if broken >= TRIES or ever >= MOST_TRIES:
                    got = f"processes that died {ever} times, at part {min(waiting)} or one of the next"
                    hint = "Memory may be short: fewer workers need less. A script that calls this needs `if __name__ == '__main__':`."
                    raise RerankError("rerank_run", got=got, expected="parts", hint=hint) from error
            finally:
                for future in futures:
                    future.cancel()


def score_batches(
    batches: Iterable[Any], model: Any, *, query: str = "query", document: str = "document", score: str = "score"
) -> Iterator[Any]:
    """Each batch with a column more: float32 scores of its (query, document) pairs. batches: an iterator of pyarrow's Tables or
    RecordBatches, pandas' DataFrames, or mappings of columns, whatever comes; so it is what Spark's mapInArrow and mapInPandas call. model:
    a loaded scorer, or what rr.load takes, loaded once.

    A document that is missing or blank scores the lowest float32. Raises InputError for a column that is missing or holds no texts.
    """
    from .adapters.scoring import pair_scores, scorer_of

    if isinstance(batches, (Mapping, str)) or hasattr(batches, "columns") or hasattr(batches, "schema"):
        raise InputError("score_batches", got="one batch", expected="an iterator of batches", hint="Pass [batch].")
    scorer = scorer_of(model)
    for batch in batches:
        columns = list(batch.schema.names) if hasattr(batch, "schema") else list(batch)
        for name in (query, document):
            if name not in columns:
                raise InputError("score_batches", got=f"columns {', '.join(map(str, columns))}", expected=f"a column '{name}'")
        queries, texts = _texts(query, batch[query], missing=False), _texts(document, batch[document], missing=True)
        if len(queries) != len(texts):
            raise InputError("score_batches", got=f"{len(queries)} queries and {len(texts)} documents", expected="as many")
        yield _with_column(batch, score, pair_scores(scorer, list(zip(queries, texts))).astype(np.float32))


def _texts(name: str, column: Any, missing: bool) -> list[str]:
    """Of an Arrow array, a pandas series, or a list; missing: whether None and its kin are allowed, as ""."""
    values = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
    out = []
    for value in values:
        absent = value is None or value != value or type(value).__name__ == "NAType"
        if not isinstance(value, str) and not (absent and missing):
            raise InputError(f"score_batches: column '{name}'", got=repr(value), expected="texts")
        out.append(value if isinstance(value, str) else "")
    return out


def _with_column(batch: Any, name: str, values: np.ndarray[Any, Any]) -> Any:
    if hasattr(batch, "append_column"):  # Arrow's Table, and RecordBatch of late
        import pyarrow

        return batch.append_column(name, pyarrow.array(values))
    if hasattr(batch, "assign"):
        return batch.assign(**{name: values})
    return {**batch, name: values}
