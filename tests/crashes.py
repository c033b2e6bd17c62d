"""A writer that is killed, as a program: `python crashes.py write FOLDER KIND` commits until it is stopped, `... points FOLDER KIND N`
stops a change and its commit at every Nth line of their code in turn. Both check nothing of their own: what must hold is in `state` and
`whole`. KIND: "bm25", or the storage of a token index."""

from __future__ import annotations

import functools
import os
import random
import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from damage import make_document, ranked
from tokens_of_words import WORD_DIM, Words, codec_of, ranked_tokens

import rerank_engine as rr
from rerank_engine.indexes import BM25Index, TokenIndex

WRITING = set("add __enter__ __exit__ _finish sync_folder lock unlock commit attempt spill _on_disk _write_manifest _remove_others".split())
WRITING.add("write_stream")
QUERIES = ["w0", "w1 w2 w39", "w5 w6 w7 marker"]
Index = BM25Index | TokenIndex


def create(path: Path, kind: str) -> Index:
    if kind == "bm25":
        return BM25Index.create(path, analyzer="simple")
    return TokenIndex.create(path, Words(), storage=kind, dim=WORD_DIM, codec=codec_of(kind))


def opened(path: Path, kind: str, **options: bool) -> Index:
    return BM25Index.open(path, **options) if kind == "bm25" else TokenIndex.open(path, encoder=Words(), **options)


def found(index: Index) -> Any:
    return ranked(index, QUERIES) if isinstance(index, BM25Index) else ranked_tokens(index, QUERIES)


def step(live: dict[str, rr.Document], n: int) -> tuple[list[rr.Document], list[str]]:
    """What commit n adds and deletes, always the same: few documents, now and then more than what goes to disk at once."""
    rng = random.Random(n)
    gone = rng.sample(list(live), min(len(live), rng.choice([0, 3, 3, 3, len(live) * 2 // 3])))
    many = 1100 if n % 12 == 5 else rng.choice([0, 1, 5, 30])
    return [make_document(100_000 * n + i) for i in range(many)], [doc_id for doc_id in gone if doc_id != "marker"]


def marker(n: int) -> rr.Document:
    return rr.Document("marker", f"marker w{n % 40}", metadata={"n": n})


def state(n: int) -> dict[str, rr.Document]:
    """The documents after commit n, in order of last insertion."""
    live: dict[str, rr.Document] = {}
    for i in range(1, n + 1):
        added, gone = step(live, i)
        live |= {document.id: document for document in added}
        live = {doc_id: document for doc_id, document in live.items() if doc_id not in gone and doc_id != "marker"}
        live["marker"] = marker(i)
    return live


def number(index: Index) -> int:
    """The commit that an index shows."""
    return int(index.corpus[index.corpus.row("marker")].metadata["n"]) if len(index) else 0


def whole(path: Path, kind: str = "bm25") -> int:
    """Opens a folder, compares it with a fresh build of what the commit that it shows should hold, and returns its number."""
    index = opened(path, kind, verify=True)
    n = number(index)
    size, ranking = expected(n, kind)
    assert len(index) == size
    assert not size or found(index) == ranking
    return n


@functools.cache
def expected(n: int, kind: str) -> tuple[int, Any]:
    want = rr.Corpus(state(n).values())
    if not len(want):
        return 0, []
    if kind == "bm25":
        return len(want), found(BM25Index.build(want, analyzer="simple"))
    return len(want), found(TokenIndex.build(want, Words(), storage=kind, codec=codec_of(kind)))


def change(index: Index, live: dict[str, rr.Document], n: int) -> None:
    added, gone = step(live, n)
    index.add(added)
    index.delete(gone)
    index.update([marker(n)])
    if n % 7 == 3:
        index.merge()


def leftovers(path: Path) -> set[str]:
    """Files that are not of the index."""
    import json

    named = {name for entry in json.loads((path / "manifest.json").read_text())["segments"] for name in entry.values()}
    return {file.name for file in path.iterdir()} - named - {"manifest.json", "lock", "codec"}


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


def write(path: Path, kind: str) -> None:
    index = opened(path, kind)
    n = number(index)
    live = state(n)
    while True:
        n += 1
        say(f"begin {n}")
        change(index, live, n)
        index.commit()
        say(f"done {n}")
        live = state(n)


def points(path: Path, kind: str, stride: int) -> None:
    os.fsync = lambda _: None  # type: ignore[assignment]  # the machine itself goes on
    """Prints how many places showed the commit before (old) and after (new)."""
    index = create(path / "start", kind)
    for n in range(1, 5):
        change(index, state(n - 1), n)
        index.commit()
    del index
    old, new, place = 0, 0, 1 - stride
    finished = False
    while not finished:
        place += stride
        shutil.copytree(path / "start", path / "run")
        child = os.fork()
        if not child:
            stop_at(place)
            writer = opened(path / "run", kind)
            change(writer, state(4), 5)
            writer.commit()
            os._exit(0)
        finished = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        seen = whole(path / "run", kind)
        assert seen in (4, 5), seen
        old, new = old + (seen == 4), new + (seen == 5)
        writer = opened(path / "run", kind)
        writer.update([marker(seen)])
        writer.commit()
        assert not leftovers(path / "run"), leftovers(path / "run")
        shutil.rmtree(path / "run")
    say(f"{old} {new}")


def stop_at(place: int) -> None:
    """Ends this process, as kill -9 does, when that many lines of the code that writes have begun."""
    seen = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == place:
                os._exit(9)
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_name in WRITING and "rerank_engine/indexes" in frame.f_code.co_filename else None

    sys.settrace(call)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), sys.argv[3])
    else:
        points(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
