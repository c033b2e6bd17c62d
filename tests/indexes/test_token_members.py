"""Files of a TokenIndex: `check` sees every changed byte, every other length and numbers that cannot be; without it nothing crashes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import cuts, flips
from tokens_of_words import STORAGES, WORD_DIM, Words, codec_of, vectors

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec
from rerank_engine.errors import FileFormatError, RerankError
from rerank_engine.indexes import BM25Index, TokenIndex
from rerank_engine.indexes.token_members import TokenFiles, TokenMember

TESTS = Path(__file__).resolve().parents[1]
DOCUMENTS = [rr.Document("a", "w0 w1 w2", "t", {"a": 1}), rr.Document("b", ""), rr.Document("c", "w3 é")]
FOLDERS = ["folder-float16", "folder-2bit"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each storage, and folders of two segments, one with deletions."""
    path = tmp_path_factory.mktemp("whole")
    for storage in STORAGES:
        TokenIndex.build(rr.Corpus(DOCUMENTS), Words(), storage=storage, codec=codec_of(storage)).save(path / storage)
    for name in FOLDERS:
        storage = name.removeprefix("folder-")
        index = TokenIndex.create(path / name, Words(), dim=WORD_DIM, storage=storage, codec=codec_of(storage))
        index.add(DOCUMENTS)
        index.commit()
        index.delete(["a"])
        index.add([rr.Document("d", "w1 w3"), rr.Document("e", "w4")])
        index.commit()
    return path


IN_FOLDERS = [
    f"{folder}/{name}"
    for folder in FOLDERS
    for name in ("manifest.json", "00000001-1.segment", "00000002-1.deleted", "00000002-2.segment", "codec")
    if folder != "folder-float16" or name != "codec"
]
FILES = [*STORAGES, *IN_FOLDERS]


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def test_these_are_all_files(whole: Path) -> None:
    found = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file() and path.name != "lock"}
    assert found == set(FILES)


def problem(target: Path) -> str:
    """What `check` says of an index; "" where it finds nothing."""
    try:
        TokenIndex.check(target)
    except FileFormatError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", FILES)
def test_check_finds_every_changed_byte(copy: Path, name: str, thorough: bool) -> None:
    target = copy / name.split("/")[0]
    documents = TokenIndex.check(target)["documents"]
    for at, mask in flips(copy / name, (*(1 << bit for bit in range(8)), 0xFF) if thorough else (0xFF,)):
        assert str(target) in problem(target), f"byte {at} ^ {mask}"
    assert TokenIndex.check(target)["documents"] == documents


@pytest.mark.parametrize("name", FILES)
def test_check_and_open_find_every_other_length(copy: Path, name: str) -> None:
    target = copy / name.split("/")[0]
    for length in cuts(copy / name):
        assert problem(target), f"{length} bytes"
        with pytest.raises(FileFormatError):
            TokenIndex.open(target)
    (copy / name).unlink()
    assert problem(target)


# Every byte is changed in turn, the index opened without `verify` and used in every way. A crash would end this process.
USE = """
import os, sys
from collections import Counter
from pathlib import Path
import numpy as np
import rerank_engine as rr
from rerank_engine.codec import ResidualCodec
from damage import flips
from rerank_engine.errors import FileFormatError, RerankError
from rerank_engine.indexes import TokenIndex
from tokens_of_words import Words, vectors

root, masks = Path(sys.argv[1]), [int(mask) for mask in sys.argv[3:]]
target = root / sys.argv[2].split("/")[0]
query, seen = vectors("w0 w3 zebra"), Counter()
os.fsync = lambda _: None  # what a crash of the machine would leave is not asked here
def scores(index, **options):
    for values in (index.score(query, **options), index.score(query, [0, 0], **options), index.search([query], 2)[0][1]):
        assert not np.isnan(values).any()
def uses(index):
    yield lambda: scores(index)
    yield lambda: scores(index, num_threads=2)
    yield lambda: scores(index, precision="uint8")
    yield lambda: scores(index, backend="reference")
    yield lambda: index.top(query, 2)
    yield lambda: [index.tokens(row) for row in range(len(index.corpus))]
    yield lambda: (list(index.corpus), index.corpus.ids, index.stats(), repr(index), index.truncated_tokens)
    if len(masks) == 1 and at % 8:
        return
    yield lambda: index.save(root / "saved")
    yield lambda: (index.snapshot().merge(), index.snapshot().add([rr.Document("new", "w0")]))
for at, mask in flips(root / sys.argv[2], masks):
    try:
        index = TokenIndex.open(target, encoder=Words())
    except FileFormatError as error:
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
    masks = ("255", "1", "2", "4", "8", "16", "32", "64", "128") if thorough else ("255",)
    done = subprocess.run([sys.executable, "-W", "error", "-c", USE, str(copy), name, *masks], cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-3000:]}"
    assert "'open'" in done.stdout


def first(member: TokenMember, column: str, value: float) -> TokenMember:
    """The same with another first number in a column."""
    changed = member.columns[column].copy()
    changed.reshape(-1)[0] = value
    return replace(member, columns={**member.columns, column: changed})


BAD: list[tuple[str, str, Callable[[TokenMember], TokenMember]]] = [
    ("float32", "offsets that step back", lambda m: replace(m, offsets=np.array([0, 5, 2, 6], np.int64))),
    ("float16", "offsets that step back", lambda m: replace(m, offsets=np.array([0, -(2**62), 2**62, 6], np.int64))),
    ("2bit", "offsets that step back", lambda m: replace(m, offsets=np.array([0, 2**62, 4, 6], np.int64))),
    ("float32", "values out of range", lambda m: first(m, "values", np.nan)),
    ("float16", "values out of range", lambda m: first(m, "values", np.inf)),
    ("int8", "scales out of range", lambda m: first(m, "scales", np.nan)),
    ("int8", "scales out of range", lambda m: first(m, "scales", -1)),
    ("4bit", "inverse_norms out of range", lambda m: first(m, "inverse_norms", np.inf)),
    ("2bit", "inverse_norms out of range", lambda m: first(m, "inverse_norms", -1)),
    ("1bit", "centroid_ids out of range", lambda m: first(m, "centroid_ids", 6)),
    ("2bit", "centroid_ids out of range", lambda m: first(m, "centroid_ids", 65535)),
    ("float16", "norms out of range", lambda m: replace(m, norms=np.array([np.nan, 1, 1], np.float32))),
    ("float32", "norms that are not those", lambda m: replace(m, norms=m.norms * np.float32(0.9))),
    ("int8", "norms that are not those", lambda m: replace(m, norms=m.norms * np.float32(0.9))),
    ("float32", "offsets that step back", lambda m: replace(m, offsets=np.array([0, 2**63 - 1, -2, 6], np.int64))),
    ("float16", "less than no token", lambda m: replace(m, truncated=np.array([-1, 0, 0], np.int32))),
]


@pytest.mark.parametrize(("storage", "said", "change"), BAD)
def test_numbers_that_cannot_be_behind_right_checksums(
    tmp_path: Path, storage: str, said: str, change: Callable[[TokenMember], TokenMember]
) -> None:
    index = TokenIndex.build(rr.Corpus(DOCUMENTS), Words(), storage=storage, codec=codec_of(storage))
    TokenFiles().write(tmp_path / "bad", change(index._members[0]), index._settings())
    with pytest.raises(FileFormatError, match=said):
        TokenIndex.check(tmp_path / "bad")
    bad = TokenIndex.open(tmp_path / "bad")
    for use in (bad.score, lambda query: bad.search([query], 1), lambda query: bad.top(query, 1), lambda query: bad.tokens(0)):
        with contextlib.suppress(FileFormatError):
            use(vectors("w0 w1"))
    bad.delete(["b"])
    try:
        bad.save(tmp_path / "other")
    except FileFormatError:
        return
    with pytest.raises(FileFormatError, match="damaged"):
        TokenIndex.check(tmp_path / "other")


@pytest.mark.parametrize("storage", ["1bit", "2bit", "4bit"])
@pytest.mark.parametrize("precision", ["auto", "int16", "uint8", "float32"])
def test_a_centroid_that_the_codec_does_not_have_is_found_while_it_is_scored(tmp_path: Path, storage: str, precision: str) -> None:
    """In a long list too, which is scored by tables and for all centroids at once."""
    texts = [" ".join(f"w{(i + j) % 40}" for j in range(20)) for i in range(300)]
    index = TokenIndex.build(rr.Corpus.from_texts(texts), Words(), storage=storage, codec=codec_of(storage))
    member = index._members[0]
    ids = member.columns["centroid_ids"].copy()
    ids[-1] = 6
    columns = {**member.columns, "centroid_ids": ids}
    TokenFiles().write(tmp_path / "bad", replace(member, columns=columns), index._settings())
    bad, query = TokenIndex.open(tmp_path / "bad"), vectors("w0 w1 w5")
    for rows in (None, [299], np.arange(300)):
        with pytest.raises(FileFormatError, match="centroid"):
            bad.score(query, rows, precision=precision)
    assert np.isfinite(bad.score(query, np.arange(299), precision=precision)).all()
    with pytest.raises(FileFormatError, match="centroid"):
        bad.tokens(299)


def test_a_token_that_is_not_finite_is_the_files_fault_or_the_querys(tmp_path: Path) -> None:
    index = TokenIndex.build(rr.Corpus(DOCUMENTS), Words(), storage="float32")
    TokenFiles().write(tmp_path / "bad", first(index._members[0], "values", np.nan), index._settings())
    bad, query = TokenIndex.open(tmp_path / "bad"), vectors("w0 w1")
    with pytest.raises(FileFormatError, match="damaged index"):
        bad.score(query)
    assert np.isfinite(bad.score(query, [2])).all()
    for wrong in (query * np.nan, query * np.float32(3e38)):
        with pytest.raises(rr.errors.NonFiniteError):
            index.score(wrong)


def test_damaged_deletions_are_seen_when_they_are_read(copy: Path) -> None:
    dead = copy / "folder-2bit" / "00000002-1.deleted"
    data = bytearray(dead.read_bytes())
    data[64] ^= 2
    dead.write_bytes(data)
    with pytest.raises(FileFormatError, match="checksum"):
        TokenIndex.open(copy / "folder-2bit")


@pytest.mark.parametrize("name", ["float32", "2bit", "folder-2bit/00000001-1.segment"])
def test_damage_is_not_copied_into_a_sound_index(copy: Path, name: str) -> None:
    target = copy / name.split("/")[0]
    tokens = TokenIndex.open(target)._members[0].columns["values" if name == "float32" else "residuals"].tobytes()
    data = bytearray((copy / name).read_bytes())
    data[bytes(data).index(tokens)] ^= 1
    (copy / name).write_bytes(data)
    for change in (lambda index: index.save(copy / "new"), lambda index: (index.delete(["c"]), index.save(copy / "new"))):
        with pytest.raises(FileFormatError, match="checksum"):
            change(TokenIndex.open(target))
    if target != copy / name:
        index = TokenIndex.open(target)
        with pytest.raises(FileFormatError, match="checksum"):
            index.merge()
        index.rollback()
    assert not (copy / "new").exists()


def test_what_is_no_token_index_is_refused(tmp_path: Path, whole: Path) -> None:
    BM25Index.build(rr.Corpus(DOCUMENTS)).save(tmp_path / "bm25")
    BM25Index.create(tmp_path / "empty")
    for path in (tmp_path / "bm25", tmp_path / "empty", tmp_path / "none", whole / "folder-2bit" / "00000001-1.segment"):
        with pytest.raises(FileFormatError):
            TokenIndex.open(path)
    TokenIndex.create(tmp_path / "tokens", dim=4)
    for path in (whole / "2bit", whole / "folder-2bit", tmp_path / "tokens"):
        with pytest.raises(FileFormatError):
            BM25Index.open(path)


def test_a_codec_that_is_not_the_folders(copy: Path) -> None:
    from rerank_engine.indexes.token_members import write_codec

    codec = codec_of("2bit")
    assert codec is not None
    write_codec(copy / "folder-2bit", replace_codec(codec))
    assert "another codec" in problem(copy / "folder-2bit")
    (copy / "folder-2bit" / "codec").unlink()
    with pytest.raises(FileFormatError):
        TokenIndex.open(copy / "folder-2bit")


def replace_codec(codec: ResidualCodec) -> ResidualCodec:
    return type(codec)(codec.centroids[::-1], codec.bucket_cutoffs, codec.bucket_weights)


@pytest.mark.parametrize("storage", STORAGES)
def test_opening_reads_no_token(tmp_path: Path, storage: str) -> None:
    """Damage in the tokens is not seen by it, wherever it lies; and so it costs the same whatever their number."""
    TokenIndex.build(rr.Corpus(DOCUMENTS), Words(), storage=storage, codec=codec_of(storage)).save(tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    tokens = TokenIndex.open(tmp_path / "x")._members[0].columns[{True: "residuals", False: "values"}[storage.endswith("bit")]]
    at = bytes(data).index(tokens.tobytes())
    data[at : at + tokens.nbytes] = bytes(255 - byte for byte in data[at : at + tokens.nbytes])
    (tmp_path / "x").write_bytes(data)
    assert len(TokenIndex.open(tmp_path / "x")) == 3
    with pytest.raises(RerankError, match="checksum"):
        TokenIndex.open(tmp_path / "x", verify=True)
