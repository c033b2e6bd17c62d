"""An index in a folder: one writer, any readers, and what is left when a writer stops in the middle."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from crashes import create, leftovers, number, opened, whole
from damage import corpus, make_document, ranked

import rerank_engine as rr
from rerank_engine.errors import FileFormatError, InputError
from rerank_engine.indexes import BM25Index, members
from rerank_engine.indexes.folder import FORMAT, MANIFEST

TESTS = Path(__file__).resolve().parents[1]
KINDS = ["bm25", "float16", "2bit"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    index = BM25Index.create(tmp_path / "x", analyzer="simple")
    index.add(corpus(10))
    index.commit()
    return tmp_path / "x"


def writer(path: Path, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(TESTS / "crashes.py"), "write", str(path), kind]
    return subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def announced(process: subprocess.Popen[str]) -> int:
    """The commit that a writer, which has ended, said last that it had made; the next may be there too."""
    out, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    return max((int(line.split()[1]) for line in out.splitlines() if line.startswith("done")), default=0)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_time_it_is_one_commit_or_the_next(tmp_path: Path, thorough: bool, kind: str) -> None:
    path, rng = tmp_path / "x", random.Random(7)
    create(path, kind).commit()
    last = 0
    for _ in range(100 if thorough else 8):
        process = writer(path, kind)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("begin")
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        before, last = last, max(last, announced(process))
        seen = whole(path, kind)
        assert last <= seen <= last + 1
        assert seen >= before
        last = seen
    assert last > 0
    index = opened(path, kind)
    index.add([rr.Document("one more", "w0")])
    index.commit()
    assert not leftovers(path)


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_at_any_line_of_a_commit_it_is_the_old_or_the_new_one(tmp_path: Path, thorough: bool, kind: str) -> None:
    command = [sys.executable, str(TESTS / "crashes.py"), "points", str(tmp_path), kind, "1" if thorough else "11"]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    old, new = map(int, done.stdout.split())
    assert old > 10
    assert new > 0


@pytest.mark.parametrize("kind", KINDS)
def test_readers_that_open_during_commits_never_fail(tmp_path: Path, thorough: bool, kind: str) -> None:
    create(tmp_path / "x", kind).commit()
    process, seen = writer(tmp_path / "x", kind), list[int]()
    try:
        end = time.monotonic() + (30 if thorough else 3)
        while time.monotonic() < end or (len(seen) < 5 and process.poll() is None):
            index = opened(tmp_path / "x", kind, verify=len(seen) % 2 == 0, in_memory=len(seen) % 3 == 0)
            seen.append(number(index))
            assert len(index) == len({doc_id for doc_id in index.corpus.ids if doc_id in index.corpus})
    finally:
        process.kill()
    announced(process)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_searches_during_updates_see_one_state_whole(tmp_path: Path) -> None:
    index = BM25Index.create(tmp_path / "x", analyzer="simple")
    index.add([rr.Document(f"d{i}", "common v0", metadata={"v": 0}) for i in range(20)])
    stop, problems, seen = threading.Event(), list[str](), set[int]()
    feedback = rr.RM3(rr.BM25(index, k=50), term_filter=lambda term, df, n: True)

    def search() -> None:
        try:
            while not stop.is_set():
                for ranking in (rr.BM25(index, k=50)("common"), feedback("common")):
                    versions = {document.metadata["v"] for document in ranking.documents}
                    seen.update(versions)
                    if len(ranking) != 20 or len(versions) != 1 or len(set(ranking.scores.tolist())) != 1:
                        problems.append(f"{len(ranking)} documents of {versions}, scores {set(ranking.scores.tolist())}")
        except Exception as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(1, 60):
        index.update([rr.Document(f"d{i}", f"common v{version}", metadata={"v": version}) for i in range(20)])
        if version % 5 == 0:
            index.commit()
        if version % 7 == 0:
            index.merge()
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(seen) > 1


def test_threads_that_add_and_commit_at_once(tmp_path: Path) -> None:
    index, problems = BM25Index.create(tmp_path / "x", analyzer="simple"), list[str]()

    def work(thread: int) -> None:
        try:
            for i in range(15):
                index.add([make_document(100 * thread + i)])
                index.commit()
        except Exception as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert {d.id for d in BM25Index.open(tmp_path / "x", verify=True).corpus} == {f"d{100 * t + i}" for t in range(4) for i in range(15)}


def test_one_writer_at_a_time(path: Path) -> None:
    first, second, reader = (BM25Index.open(path) for _ in range(3))
    first.add([make_document(20)])
    for change in (lambda: second.add([make_document(21)]), lambda: second.delete(["d1"]), second.merge, second.commit):
        with pytest.raises(InputError, match=r"a second writer.*Wait for the other's commit"):
            change()
    assert len(second) == 10
    first.commit()
    for stale in (second, reader):
        with pytest.raises(InputError, match=r"a newer commit.*Open it again"):
            stale.add([make_document(21)])
        assert ranked(stale) == ranked(BM25Index.build(corpus(10), analyzer="simple"))  # it still reads what it opened
        assert list(stale.corpus) == list(corpus(10))
    third = BM25Index.open(path)
    third.add([make_document(21)])
    del third  # and with it its lock, and what it had not committed
    fourth = BM25Index.open(path)
    fourth.delete(["d0"])
    fourth.commit()
    assert len(BM25Index.open(path, verify=True)) == 10


def test_another_process_is_another_writer(path: Path) -> None:
    code = f"from rerank_engine.indexes import BM25Index; BM25Index.open({str(path)!r}).delete(['d1'])"
    index = BM25Index.open(path)
    index.delete(["d1"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a second writer" in done.stderr
    index.commit()
    assert "the id 'd1'" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr


def test_a_folder_that_was_made_anew_is_not_taken_for_the_old_one(path: Path) -> None:
    old = BM25Index.open(path)
    for file in path.iterdir():
        file.unlink()
    new = BM25Index.create(path, analyzer="simple")
    new.add([make_document(77)])
    new.commit()
    with pytest.raises(InputError, match="Open it again"):
        old.delete(["d1"])


def test_a_reader_keeps_what_it_opened(path: Path) -> None:
    reader, before = BM25Index.open(path), ranked(BM25Index.open(path))
    index = BM25Index.open(path)
    for i in range(5):
        index.update([make_document(n, i + 1) for n in range(10)])
        index.merge()
        index.commit()
    assert ranked(reader) == before
    assert list(reader.corpus) == list(corpus(10))


@pytest.mark.parametrize("call", ["segment", "deleted", "manifest", "replace", "remove"])
def test_a_commit_that_fails_can_be_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    def not_the_manifest(source: Any, target: Any) -> None:
        fail() if Path(target).name == MANIFEST else real(source, target)

    real, index = os.replace, BM25Index.open(path)
    index.delete(["d1", "d2"])
    index.add([make_document(20)])
    after, files = ranked(index), sorted(p.name for p in path.iterdir())
    target: dict[str, tuple[Any, str, Any]] = {
        "segment": (members, "write", fail),
        "deleted": (members, "write_dead", fail),
        "manifest": (os, "fsync", fail),
        "replace": (os, "replace", not_the_manifest),
        "remove": (Path, "iterdir", fail),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*target[call])
        with pytest.raises(OSError, match="No space"):
            index.commit()
    assert ranked(index) == after
    if call != "remove":  # by then it is committed
        assert sorted(p.name for p in path.iterdir()) == files
        assert len(BM25Index.open(path, verify=True)) == 10
    with pytest.raises(InputError, match="a second writer"):
        BM25Index.open(path).delete(["d3"])
    index.commit()
    assert ranked(BM25Index.open(path, verify=True)) == after
    assert not leftovers(path)


def test_a_folder_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    index = BM25Index.open(path)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"Permission denied.*a folder that can be written"):
        index.add([make_document(20)])
    assert len(index) == 10


def sealed(**changes: Any) -> str:
    """A manifest with a right checksum."""
    entry = {"file": "00000001-1.segment", "dead": None}
    body = {"format": FORMAT, "made": "now", "generation": 1, "settings": {}, "segments": [entry], **changes}
    body = {key: value for key, value in body.items() if value is not ...}
    return json.dumps({**body, "crc32": zlib.crc32(json.dumps(body, sort_keys=True).encode())}, indent=1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "null",
        "[" * 100_000,
        "\0",
        "\ufeff{}",
        sealed() + "\n",
        sealed().replace("\n", ""),
        sealed(format=...),
        sealed(format=FORMAT + 1),
        sealed(generation=...),
        sealed(generation="1"),
        sealed(settings=[]),
        sealed(segments=5),
        sealed(segments={"a": 1}),
        sealed(segments=[5]),
        sealed(segments=["file"]),
        sealed(segments=[{"file": "00000001-1.segment"}]),
        sealed(segments=[{"file": 5, "dead": None}]),
        sealed(segments=[{"file": None, "dead": None}]),
        sealed(segments=[{"file": "../x/00000001-1.segment", "dead": None}]),
        sealed(segments=[{"file": "./../../secret.tmp", "dead": None}]),
        sealed(segments=[{"file": "00000001-1.segment", "dead": 5}]),
        sealed(segments=[{"file": "00000001-1.segment", "dead": "../../etc/passwd"}]),
        sealed(segments=[{"file": "00000001-1.segment", "dead": None}] * 2),
        sealed(segments=[{"file": "00000009-9.segment", "dead": None}]),
        sealed(segments=[{"file": "00000001-1.segment", "dead": "00000001-1.segment"}]),
        sealed(settings={}),
        sealed(settings={"parameters": [], "analyzer": {}}),
        sealed(settings={"parameters": {}, "analyzer": 5, "codes": True, "forward": False}),
        sealed(settings={"parameters": {"k9": 1}, "analyzer": {"scheme": 1, "analyzer": "simple"}, "codes": True, "forward": False}),
    ],
)
def test_hostile_manifests(path: Path, text: str) -> None:
    (path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(FileFormatError):
        BM25Index.open(path)


def test_deletions_that_belong_to_another_segment(path: Path) -> None:
    index = BM25Index.open(path)
    index.delete(["d1"])
    index.commit()
    [dead] = path.glob("*.deleted")
    [segment] = path.glob("*.segment")
    with pytest.raises(FileFormatError, match="kind"):
        members.read(dead)
    member, _ = members.read(segment, name="another.segment")
    with pytest.raises(FileFormatError, match="of another segment"):
        members.read_dead(dead, member, dead.name)
    member, _ = members.read(segment, name=segment.name)
    wrong = member.delete([2])
    wrong.part.dead_counts[:] = 0
    members.write_dead(dead, wrong)  # right checksums, wrong counts
    with pytest.raises(FileFormatError, match="counts of deleted documents"):
        BM25Index.check(path)


def test_rollback_forgets_what_was_not_committed_and_lets_another_in(tmp_path: Path) -> None:
    index = rr.BM25Index.create(tmp_path / "index")
    index.add([rr.Document("a", "apple")])
    index.commit()
    index.add([rr.Document(str(i), "banana") for i in range(1200)])  # enough to lie in a file already
    index.delete(["a"])
    index.rollback()
    assert len(index) == 1 and index.search(["banana"], 3)[0][0].size == 0 and index.search(["apple"], 3)[0][0].tolist() == [0]
    assert sorted(path.suffix for path in (tmp_path / "index").iterdir()) == ["", ".json", ".segment"]
    other = rr.BM25Index.open(tmp_path / "index")
    other.add([rr.Document("b", "cherry")])
    other.commit()
    with pytest.raises(rr.errors.InputError, match="newer commit"):
        index.add([rr.Document("c", "date")])
    with pytest.raises(rr.errors.InputError, match="without a folder"):
        rr.BM25Index.build(rr.Corpus.from_texts(["x"])).rollback()
