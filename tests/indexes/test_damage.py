"""Damaged indexes: `check` sees every changed byte and every other length; without it, a search answers or raises, and never crashes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from damage import corpus, cuts, flips, make_document

import rerank_engine as rr
from rerank_engine.errors import FileFormatError
from rerank_engine.indexes import BM25Index

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file `index` and a folder `folder` of two segments, one with deletions."""
    path = tmp_path_factory.mktemp("whole")
    small = rr.Corpus.from_texts(["w0 w1 w1", "", "w2 w0 é"], titles=["t", "", ""], metadata=[{"a": 1}, {}, {}])
    BM25Index.build(small, forward=True, analyzer="simple").save(path / "index")
    folder = BM25Index.create(path / "folder", analyzer="simple")
    folder.add([rr.Document("a", "w0 w1"), rr.Document("b", "w0 w2"), rr.Document("c", "w0 w0")])
    folder.commit()
    folder.delete(["b"])
    folder.add([rr.Document("d", "w1 w3")])
    folder.commit()
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


FILES = ["index", "folder/manifest.json", "folder/00000001-1.segment", "folder/00000002-1.deleted", "folder/00000002-2.segment"]


def test_these_are_all_files(whole: Path) -> None:
    found = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert found - {"folder/lock"} == set(FILES)


def found(target: Path) -> str:
    """What `check` says of an index; "" where it finds nothing."""
    try:
        BM25Index.check(target)
    except FileFormatError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FILES)
def test_check_finds_every_changed_byte(copy: Path, name: str, thorough: bool) -> None:
    target = copy / name.split("/")[0]
    for at, mask in flips(copy / name, (0x01, 0x80, 0x20, 0xFF) if thorough else (0xFF,)):
        assert name.split("/")[-1] in found(target), f"byte {at} ^ {mask}"
    assert BM25Index.check(target)["documents"] == 3


@pytest.mark.parametrize("name", FILES)
def test_check_finds_every_other_length(copy: Path, name: str) -> None:
    target = copy / name.split("/")[0]
    for length in cuts(copy / name):
        assert name.split("/")[-1] in found(target), f"{length} bytes"
    (copy / name).unlink()
    assert "No such file" in found(target)


# Every byte of every file is changed in turn, the index opened without `verify` and used in every way. A crash would end this process.
USE = """
import os, sys
from collections import Counter
from pathlib import Path
import rerank_engine as rr
from damage import flips
from rerank_engine.errors import RerankError
from rerank_engine.indexes import BM25Index

root, masks = Path(sys.argv[1]), [int(mask) for mask in sys.argv[3:]]
target = root / sys.argv[2].split("/")[0]
queries = ["w0", "w1 w2 zebra", rr.Query("w0 w1", must=("w1",)), rr.Query("w0", deny=["a"]), "w0 w1 w2 w3 é t"]
seen = Counter()
os.fsync = lambda _: None  # what a crash of the machine would leave is not asked here
def uses(index):
    yield lambda: index.search(queries, 2)
    yield lambda: rr.BM25(index).run(queries)
    yield lambda: [rr.BM25(index, k=3)(query).documents for query in queries[:2]]
    yield lambda: list(index.corpus) and index.corpus.ids
    yield lambda: [doc_id in index.corpus for doc_id in ("0", "2", "a", "d", "none")]
    yield lambda: index.document_terms(range(len(index.corpus)))
    yield lambda: index.document_frequency(["w0", "w3", "none"])
    yield lambda: index.explain("w0 w1", index.corpus[0].id)
    yield lambda: rr.RM3(rr.BM25(index))("w0 w1")
    if len(masks) == 1 and at % 8:
        return
    yield lambda: index.save(root / "saved")
    yield lambda: (index.snapshot().add([rr.Document("new", "w0")]), len(index))
for at, mask in flips(root / sys.argv[2], masks):
    try:
        index = BM25Index.open(target)
    except RerankError as error:
        seen["open"] += 1
        continue
    for number, use in enumerate(uses(index)):
        try:
            use()
            seen["fine"] += 1
        except RerankError as error:
            seen[type(error).__name__] += 1
        except Exception as error:
            raise RuntimeError(f"byte {at} ^ {mask}, use {number}") from error
print(dict(seen))
"""


@pytest.mark.parametrize("name", FILES)
def test_without_a_check_nothing_crashes(copy: Path, name: str, thorough: bool) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        USE,
        str(copy),
        name,
        *(("255", "1", "128", "2", "64", "127") if thorough else ("255",)),
    ]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    assert "'open'" in done.stdout


def test_a_larger_damaged_file_does_not_crash(copy: Path, thorough: bool) -> None:
    """Blocks of 128 postings, dense terms: another shape of the same file."""
    documents = rr.Corpus([*corpus(40), *(rr.Document(f"x{i}", "w0 w1 w2" + " w3" * (i % 5)) for i in range(300)), make_document(99)])
    BM25Index.build(documents, forward=True, analyzer="simple").save(copy / "index")
    command = [sys.executable, "-W", "error", "-c", SAMPLE, str(copy / "index"), "5000" if thorough else "300"]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"


SAMPLE = """
import os, random, sys
from pathlib import Path
import rerank_engine as rr
from rerank_engine.errors import RerankError
from rerank_engine.indexes import BM25Index
path, rng = Path(sys.argv[1]), random.Random(5)
data = path.read_bytes()
os.fsync = lambda _: None
for _ in range(int(sys.argv[2])):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 4, 50])):
        changed[rng.randrange(64, len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    path.write_bytes(changed)
    try:
        index = BM25Index.open(path)
    except RerankError:
        continue
    for use in (
        lambda: index.search(["w0", "w1 w2 w3", "w0 w3 w5 w9", rr.Query("w0 w1", must=("w3",))], 10),
        lambda: index.search(["w0 w1"], 1000, threads=2),
        lambda: index.document_terms(range(340)),
        lambda: list(index.corpus),
        lambda: index.save(path.with_name("saved")),
        lambda: [index.explain("w0 w1 w9", f"x{i}") for i in (0, 150)],
        lambda: index.delete(["x5"]),
        lambda: index.search(["w0 w1"], 10),
        lambda: index.merge(),
        lambda: index.search(["w0 w1"], 10),
    ):
        try:
            use()
        except RerankError:
            pass
"""
