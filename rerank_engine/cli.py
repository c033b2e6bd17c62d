"""The command `rerank-engine`. It parses arguments, calls the library and prints; errors go to standard error with exit status 2."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import __version__
from .corpus import Corpus, Document, document_from_json, parse_jsonl, read_text
from .errors import InputError, RerankError
from .ops.checks import count
from .progress import Progress

NO_TEXT = "no text"  # in place of a score: there was nothing to compare


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no reason to stop
    try:
        args.command(args)
        sys.stdout.flush()
    except RerankError as error:
        print(f"rerank-engine: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"rerank-engine: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="rerank-engine", description="Candidates in, the best order out.")
    top.add_argument("--version", action="version", version=f"rerank-engine {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.set_defaults(command=command)
        return sub

    sub = add("demo", demo, "retrieve and re-rank real Wikipedia passages with real models")
    sub.add_argument("query", nargs="?", metavar="QUERY", help="a question (default: a sample one)")
    sub.add_argument("--evaluate", type=int, metavar="N", help="judge every stage over N questions with known answers")
    sub.add_argument("--threads", type=int, help="threads of the models (default: what this process may use)")

    _index_commands(add)
    sub = add("rerank", rerank, "order documents for a query with a cross-encoder or a late-interaction model")
    sub.add_argument("--model", help="a folder, a bundled name or a hub name (default: ms-marco-MiniLM-L-12-v2)")
    sub.add_argument("--threads", type=int, help="threads of the model (default: what this process may use)")
    sub.add_argument("--runtime", choices=("onnx", "torch", "tensorrt"), help="what runs the model (default: the best that does here)")
    sub.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    sub.add_argument("--precision", choices=("float32", "float16", "bfloat16"), help="default: the file's, or half on a GPU")
    sub.add_argument("--query", required=True)
    sub.add_argument(
        "--documents", required=True, metavar="FILE", help="JSON lines (.jsonl, .gz), or text with one document a line; - reads it"
    )
    sub.add_argument("--top-n", type=int, metavar="N", help="results to print (default: all)")
    sub.add_argument(
        "--activation", choices=("none", "sigmoid"), default="none", help="none: the model's scores; sigmoid: of logits, 0 to 1"
    )

    sub = add("eval", evaluate, "measure runs against relevance judgments")
    sub.add_argument("qrels", metavar="QRELS", help="TREC or BEIR form, .gz or not")
    sub.add_argument("runs", metavar="RUN", nargs="+", help="TREC or BEIR form, .gz or not")
    sub.add_argument(
        "-m",
        "--measure",
        action="append",
        metavar="MEASURE",
        help="may repeat; default: nDCG@10, MRR@10, R@100; also R(rel=2)@100, P@5, MAP ...",
    )

    add("backends", backends, "what can run on this machine, found by trying it")
    return top


def _index_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("index", index, "build a BM25 index: one file, or a folder that takes changes; or, with --tokens, a token index")
    sub.add_argument("corpus", metavar="CORPUS", help="JSON lines (.jsonl, .gz) or the folder of a BEIR collection")
    sub.add_argument("output", metavar="INDEX", help="the file to write; with --folder, a folder to create or to add to")
    sub.add_argument("--folder", action="store_true", help="an index that takes more documents later")
    sub.add_argument("--update", action="store_true", help="with --folder: replace documents that are there already")
    sub.add_argument("--analyzer", help="a language such as english or zh, simple, lucene-english ... (default: english)")
    sub.add_argument("--variant", help="lucene (default), robertson, atire, bm25l or bm25+")
    sub.add_argument("--k1", type=float, help="default: 1.2")
    sub.add_argument("--b", type=float, help="default: 0.75")
    sub.add_argument("--forward", action="store_true", help="keep each document's terms: feedback then reads no texts")
    sub.add_argument("--no-codes", action="store_true", help="a byte per posting less, slower searches")

    sub.add_argument("--tokens", metavar="MODEL", help="a token index by this late-interaction model instead")
    sub.add_argument("--storage", help="of tokens: float32, float16 (default), int8, 4bit, 2bit or 1bit")
    sub.add_argument("--threads", type=int, help="threads of that model (default: what this process may use)")

    sub = add("search", search, "search a BM25 index, or a token index by the model that made it")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder")
    sub.add_argument("query", metavar="QUERY")
    sub.add_argument("-k", type=int, default=10, help="results (default: 10)")
    sub.add_argument("--variant", help="of BM25, instead of the index' own; so for --k1 and --b")
    sub.add_argument("--k1", type=float)
    sub.add_argument("--b", type=float)
    sub.add_argument("--model", help="of a token index (default: the one that made it)")
    sub.add_argument("--threads", type=int, help="threads of that model and of scoring (default: what this process may use)")
    sub.add_argument("--rm3", action="store_true", help="expand the query by feedback from the first results")
    sub.add_argument("--explain", action="store_true", help="each term's part in each score; of a token index, a heat map")
    sub.add_argument("--html", metavar="FILE", help="of a token index: write a page with a heat map of each result")

    sub = add("check", check, "read every byte of an index and say whether it is whole")
    sub.add_argument("index", metavar="INDEX", help="a file or a folder")


def demo(args: argparse.Namespace) -> None:
    from .demo import SAMPLE, load_demo

    if args.query is not None:
        _require_text("QUERY", args.query)
    runner = load_demo(args.threads)
    questions = None if args.evaluate is None else runner.questions(args.evaluate)
    query = args.query or SAMPLE
    ranking = runner.search(query)
    results: list[dict[str, Any]] = [
        {"rank": place, "id": document.id, "score": float(score), "text": document.passage, "stage_ranks": ranking.stage_ranks(row)}
        for place, (row, score, document) in enumerate(zip(ranking.ids.tolist(), ranking.scores, ranking.documents), 1)
    ]
    stages = [step.to_dict() for step in ranking.trace]
    if questions is not None:
        with Bar("questions") as progress:
            stages = runner.evaluate(questions, progress)
    if args.json:
        print_json({"query": query, "results": results, "stages": stages})
        return
    print(
        f"{query}\n\n{len(ranking.corpus):,} Wikipedia passages; score: logit; BM25 to CrossEncoder: rank after each stage (-: not found)\n"
    )
    columns = [name for name in dict.fromkeys(name for r in results for name in r["stage_ranks"]) if name != "Top"]
    table(
        ["rank", "score", *columns, "passage"],
        [[r["rank"], f"{r['score']:.3f}", *(r["stage_ranks"].get(c, "-") for c in columns), clip(r["text"], query=query)] for r in results],
    )
    print()
    keys = ["name", "backend", "n_in", "n_out", "ms", *(k for k in ("ndcg@10", "mrr@10", "answer@3") if k in stages[0])]
    table(keys, [[f"{s[k]:.4f}" if "@" in k else f"{s[k]:.1f}" if k == "ms" else s[k] for k in keys] for s in stages])
    total = sum(s["ms"] for s in stages)
    print(
        f"\n{total:.0f} ms in all"
        + (f"; quality and median times over {args.evaluate} questions" if args.evaluate else ", without loading")
    )


def index(args: argparse.Namespace) -> None:
    from .indexes import BM25Index

    given = {name: getattr(args, name) for name in ("analyzer", "variant", "k1", "b") if getattr(args, name) is not None}
    if args.update and not args.folder:
        raise InputError("--update", got="an index in one file", expected="--folder")
    if args.tokens is not None:
        if given or args.forward or args.no_codes:
            raise InputError("--tokens", got="settings of a BM25 index", expected="only --storage with it")
        return _index_tokens(args)
    if args.storage is not None:
        raise InputError("--storage", got=args.storage, expected="--tokens MODEL with it")
    if args.threads is not None:
        raise InputError("--threads", got="a BM25 index", expected="--tokens MODEL with it")
    options = {**given, "forward": args.forward, "codes": not args.no_codes}
    documents, output = Corpus.stream(args.corpus), Path(args.output)
    if args.folder:
        exists = _is_filled(args, bool(given or args.forward or args.no_codes))
        target = BM25Index.open(output) if exists else BM25Index.create(output, **options)
        _add(target, documents, args, exists)
    else:
        with Bar("documents") as progress:
            BM25Index.build_file(documents, output, progress=progress, **options)
    made = BM25Index.open(output)
    summary = {"index": str(output), "documents": len(made), "postings": made.n_postings}
    print_json(summary) if args.json else print(made)


def _is_filled(args: argparse.Namespace, settings: bool) -> bool:
    """Whether the folder is an index already, which keeps its settings."""
    exists = Path(args.output).is_dir() and any(Path(args.output).iterdir())
    if exists and settings:
        raise InputError("INDEX", got="an index that is there, and settings for a new one", expected="no settings, or a new folder")
    return exists


def _add(target: Any, documents: Iterable[Document], args: argparse.Namespace, exists: bool) -> None:
    """To an index in a folder, which goes again if this fails and it was not there before."""
    try:
        with Bar("documents") as progress:
            (target.update if args.update else target.add)(documents, progress=progress)
            target.commit()
    except BaseException:
        if not exists:
            shutil.rmtree(args.output, ignore_errors=True)
        raise


def _index_tokens(args: argparse.Namespace) -> None:
    from .indexes import TokenIndex

    storage, output = args.storage or "float16", args.output
    exists = args.folder and _is_filled(args, False)
    there = TokenIndex.open(output) if exists else None
    if there is not None and args.storage not in (None, there.storage):
        _is_filled(args, True)
    encoder = _late_model(args.tokens, args.threads)
    if there is not None:
        there.require_encoder("--tokens", encoder)
        made, there.encoder = there, encoder
        _add(made, Corpus.stream(args.corpus), args, exists)
    else:
        documents = Corpus(Corpus.stream(args.corpus))
        if args.folder:
            codec = None
            if storage.endswith("bit"):
                with Bar("documents for the codec") as progress:
                    codec = TokenIndex.train_codec(documents, encoder, storage, progress=progress)
            made = TokenIndex.create(output, encoder, storage=storage, codec=codec)
            _add(made, documents, args, exists)
        else:
            with Bar("documents") as progress:
                made = TokenIndex.build(documents, encoder, storage=storage, path=output, progress=progress)
    summary = {"index": str(output), "documents": len(made), "tokens": made.n_tokens, "storage": made.storage, "bytes": made.nbytes}
    print_json(summary) if args.json else print(made)


def _late_model(name: str, threads: int | None) -> Any:
    from .runtimes import load
    from .stages import ColBERT

    model = load(name, threads=threads)
    if not isinstance(model, ColBERT):
        raise InputError("model", got=repr(model), expected="a late-interaction model, such as answerai-colbert-small-v1")
    return model


def _search_tokens(args: argparse.Namespace) -> None:
    from .indexes import TokenIndex
    from .runtimes.files import BUNDLED
    from .stages import LateInteraction
    from .stages.explain import page

    if args.rm3 or args.variant or args.k1 is not None or args.b is not None:
        raise InputError("search", got="a token index and settings of BM25", expected="none of --rm3, --variant, --k1, --b")
    _require_text("QUERY", args.query)
    opened = TokenIndex.open(args.index)
    made_by = (opened.made_by or {}).get("model", "")
    if args.model is None and made_by not in BUNDLED and not os.path.isdir(made_by):  # a name in a file of others downloads nothing
        hint = f"It was made by '{made_by}'." if made_by else ""
        raise InputError("search", got="a token index whose model is not at hand", expected="--model", hint=hint)
    encoder = _late_model(args.model or made_by, args.threads)
    stage = LateInteraction(opened, encoder, k=args.k, num_threads=args.threads)
    ranking = stage(args.query)
    told = [stage.explain(args.query, document) for document in (ranking.documents if args.explain or args.html else [])]
    results: list[dict[str, Any]] = [
        {"rank": place, "id": document.id, "score": float(score), "text": document.passage}
        | ({"explanation": told[place - 1].to_dict()} if args.explain else {})
        for place, (score, document) in enumerate(zip(ranking.scores, ranking.documents), 1)
    ]
    if args.html:
        headed = ((f"{r['rank']}. {r['id']}", explanation) for r, explanation in zip(results, told))
        Path(args.html).write_text(page(args.query, headed), encoding="utf-8")
    if args.json:
        print_json({"query": args.query, "index": str(args.index), "results": results})
        return
    rows = [[r["rank"], f"{r['score']:.4f}", r["id"], clip(str(r["text"]), query=args.query)] for r in results]
    table(["rank", "score", "id", "document"], rows)
    if args.explain and told:
        colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print("\n" + ("the darker its ground, the more" if colors else "[in brackets]: what") + " a word adds to the score")
        for document, explanation in zip(ranking.documents, told):
            print(f"\n{document.id}\n{explanation.to_terminal(colors)}")


def search(args: argparse.Namespace) -> None:
    from .core import Query
    from .indexes import BM25Index
    from .indexes.token_members import is_token_index
    from .stages import BM25, RM3

    count("-k", args.k)
    if is_token_index(args.index):
        return _search_tokens(args)
    for option in ("model", "threads", "html"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option}", got="a BM25 index", expected="a token index, or none of it")
    opened = BM25Index.open(args.index, variant=args.variant, k1=args.k1, b=args.b)
    first = BM25(opened, k=args.k)
    stage, query = RM3(first) if args.rm3 else first, Query(args.query)
    if isinstance(stage, RM3):
        query = replace(query, terms=stage.expand([query], first.with_k(stage.fb_docs).run([query]))[0])
    ranking = first(query)
    results = [
        {"rank": place, "id": document.id, "score": float(score), "text": document.passage}
        | ({"terms": opened.explain(query, document.id)["terms"]} if args.explain else {})
        for place, (score, document) in enumerate(zip(ranking.scores, ranking.documents), 1)
    ]
    if args.json:
        terms = {"terms": query.terms} if query.terms is not None else {}
        print_json({"query": args.query, "index": str(args.index), "results": results, **terms})
        return
    if query.terms is not None:
        print("terms: " + ", ".join(f"{term} {weight:.3f}" for term, weight in query.terms.items()) + "\n")
    table(
        ["rank", "score", "id", "document"],
        [[r["rank"], f"{r['score']:.4f}", r["id"], clip(str(r["text"]), query=args.query)] for r in results],
    )
    for document in ranking.documents if args.explain else []:
        print(f"\n{document.id}")
        terms = opened.explain(query, document.id)["terms"]
        keys = ("idf", "f", "weight", "score")
        table(["term", "tf", "df", *keys], [[t["term"], t["tf"], t["df"], *(f"{t[key]:.4f}" for key in keys)] for t in terms])


def check(args: argparse.Namespace) -> None:
    from .indexes import BM25Index, TokenIndex
    from .indexes.token_members import is_token_index

    with Bar("segments") as progress:
        found = (TokenIndex if is_token_index(args.index) else BM25Index).check(args.index, progress)
    print_json({**found, "ok": True}) if args.json else print("whole: " + ", ".join(f"{key} {value}" for key, value in found.items()))


def rerank(args: argparse.Namespace) -> None:
    from .api import DEFAULT_MODEL, named_model, rerank
    from .runtimes import load
    from .stages import ColBERT

    _require_text("--query", args.query)
    documents, name = read_documents(args.documents), DEFAULT_MODEL if args.model is None else args.model
    if args.top_n is not None:
        count("--top-n", args.top_n)
    given = {key: getattr(args, key) for key in ("threads", "runtime", "device", "precision") if getattr(args, key) is not None}
    model: Any = load(name, **given) if given else named_model(name)
    results = rerank(args.query, documents, model, args.top_n, activation=args.activation)
    own = "maxsim" if isinstance(model, ColBERT) else "logit" if args.activation == "none" else "probability"
    scale = results[0].scale if results else own
    if args.json:
        rows = [{"index": r.index, "id": r.document.id, "score": r.score, "truncated_tokens": r.truncated_tokens} for r in results]
        print_json({"model": name, "scale": scale, "results": rows})
        return
    table(
        ["rank", "index", scale, "truncated", "document"],
        [
            [i, r.index, f"{r.score:.4f}" if r.document.passage.strip() else NO_TEXT, r.truncated_tokens or "", clip(r.document.passage)]
            for i, r in enumerate(results, 1)
        ],
    )


def evaluate(args: argparse.Namespace) -> None:
    from .evaluation import evaluate, read_qrels, read_run

    qrels, rows = read_qrels(args.qrels), []
    for path in args.runs:
        run = read_run(path)
        missing = sum(query not in run for query in qrels)
        if missing == len(qrels):
            got = f"no query that {args.qrels} judges (it has {next(iter(run))!r}, the other {next(iter(qrels))!r})"
            raise InputError(path, got=got, expected="the same query ids in both")
        values = evaluate(qrels, run, args.measure or ["nDCG@10", "MRR@10", "R@100"])
        rows += [{"run": path, "measure": m, "value": v, "queries": len(qrels), "missing": missing} for m, v in values.items()]
    if args.json:
        print_json(rows)
    else:
        header = ["run", "measure", "value", "queries", "missing"]
        table(header, [[r["run"], r["measure"], f"{r['value']:.4f}", r["queries"], r["missing"]] for r in rows])


def backends(args: argparse.Namespace) -> None:
    from .backends import report

    rows = report()
    if args.json:
        print_json(rows)
    else:
        what = [[r["kind"], r["name"], r["variant"], "ok" if r["ok"] else "no", r["reason"] or r["detail"]] for r in rows]
        table(["kind", "name", "variant", "", "why"], what)


def read_documents(source: str) -> Corpus:
    """JSON lines or plain lines: by the file's ending, else by the first character."""
    if source == "-" and sys.stdin is None:
        raise InputError("--documents -", got="no standard input", expected="text on it")
    text = sys.stdin.read() if source == "-" else read_text(source)
    name = source.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")) or (not name.endswith(".txt") and text.lstrip().startswith("{")):
        return Corpus(document_from_json(record, row, where) for row, (where, record) in enumerate(parse_jsonl(text.split("\n"), source)))
    return Corpus.from_texts([line for line in text.splitlines() if line.strip()])


class Bar:
    """A progress bar on standard error, where tqdm is installed. As a context it is off the line before anything else is printed.

    It counts from when it is made, but shows nothing before the first report: an error that comes first has its line to itself.
    """

    def __init__(self, unit: str) -> None:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            self.shown: Any = None
        else:
            self.shown = tqdm(unit=f" {unit}", file=sys.stderr, delay=1e-6)

    def __call__(self, done: int, total: int) -> None:
        if self.shown is None:
            return
        self.shown.total = total or None  # 0: not known
        self.shown.update(done - self.shown.n)
        if done == total:
            self.shown.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown is not None:
            self.shown.close()


def _require_text(name: str, text: str) -> None:
    if not text.strip():
        raise InputError(name, got="an empty text", expected="a question")


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    """Columns in the width of their longest cell; numbers to the right, the last column as it comes."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [
        all(row[i].replace(".", "", 1).lstrip("-").isdigit() or row[i] in ("", "-", NO_TEXT) for row in cells[1:])
        for i in range(len(header))
    ]
    for row in cells:
        line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
        print(line.rstrip())


def clip(text: str, width: int = 100, query: str = "") -> str:
    """One line of at most `width` characters: the start of the text, or where most of the query's words stand together."""
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    wanted = set(re.findall(r"\w{4,}", query.lower()))
    starts = [0, *(match.start() for match in re.finditer(r"\w+", line))] if wanted else [0]
    start = max(starts, key=lambda at: len(wanted & set(re.findall(r"\w+", line[at : at + width - 2].lower()))))
    head, rest = ("…" if start else ""), line[start:]
    return head + (rest if len(rest) <= width - len(head) else rest[: width - len(head) - 1] + "…")


if __name__ == "__main__":
    sys.exit(main())
