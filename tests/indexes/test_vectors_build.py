"""Encoding into an index: batches, what makes it refuse, and going on after a kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.errors import Cancelled, InputError, NonFiniteError
from rerank_engine.indexes.vector_build import BATCH, MAGIC

DIM = 6
N = 4 * BATCH + 3
TEXTS = [f"text {i}" for i in range(N)]
CORPUS = rr.Corpus.from_texts(TEXTS)


def vector(text: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM).astype(np.float32)


class Fake:
    """Encodes; `stop_at`: says so before that batch, and waits to be killed."""

    def __init__(self, fingerprint: str | None = "f", stop_at: int = -1, normalize: bool = False) -> None:
        self.fingerprint, self.model, self.stop_at, self.normalize = fingerprint, "fake", stop_at, normalize
        self.batches: list[int] = []

    def encode(self, texts, *, queries=False):
        return self.encode_counted(texts)[0]

    def encode_counted(self, texts, *, progress=None):
        if len(self.batches) == self.stop_at:
            os.write(1, b"here\n")
            signal.pause()
        self.batches.append(len(texts))
        vectors = np.stack([vector(text) for text in texts])
        if self.normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if progress:
            progress(len(texts), len(texts))
        return vectors, np.array([zlib.crc32(text.encode()) % 2 for text in texts], np.int32)


def partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def killed(path: Path, stop_at: int, kind: str = "exact") -> None:
    """A process that builds CORPUS there, killed with SIGKILL while it encodes batch `stop_at`."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_vectors_build import write; write(*sys.argv[2:])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(path), str(stop_at), kind]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"here\n"
    child.kill()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL


def write(path: str, stop_at: str, kind: str) -> None:
    rr.VectorIndex.build(CORPUS, Fake(stop_at=int(stop_at)), path=path, kind=kind)


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> bytes:
    """PATH.partial of a build that was killed in its fourth batch."""
    path = tmp_path_factory.mktemp("killed") / "index"
    killed(path, 3)
    assert [file.name for file in path.parent.iterdir()] == ["index.partial"], "nothing that could be taken for an index"
    return partial(path).read_bytes()


@pytest.fixture
def path(tmp_path, left) -> Path:
    partial(tmp_path / "index").write_bytes(left)
    return tmp_path / "index"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The file of a build that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "index"
    rr.VectorIndex.build(CORPUS, Fake(), path=path)
    return path.read_bytes()


def test_a_build_that_was_killed_goes_on_and_loses_one_batch(path, whole):
    encoder, seen = Fake(), []
    index = rr.VectorIndex.build(CORPUS, encoder, path=path, progress=lambda done, total: seen.append((done, total)))
    assert encoder.batches == [BATCH, 3], "three batches were there"
    assert path.read_bytes() == whole and [file.name for file in path.parent.iterdir()] == ["index"]
    assert seen[-1] == (N, N) and seen[0] == (4 * BATCH, N)
    assert (index.vectors == np.stack([vector(text) for text in TEXTS])).all() and index.made_by == {"model": "fake", "fingerprint": "f"}


def test_it_goes_on_as_another_kind_too(path):
    encoder = Fake(normalize=False)
    index = rr.VectorIndex.build(CORPUS, encoder, path=path, metric="cosine", dim=4, keep="float16")
    assert sum(encoder.batches) == BATCH + 3
    want = rr.VectorIndex.from_vectors(CORPUS, np.stack([vector(t) for t in TEXTS]), metric="cosine", dim=4, keep="float16")
    assert (index.vectors == want.vectors).all() and index.given_dim == DIM


def test_killed_twice(path, whole):
    killed(path, 0)
    encoder = Fake()
    rr.VectorIndex.build(CORPUS, encoder, path=path)
    assert encoder.batches == [BATCH, 3] and path.read_bytes() == whole


def test_killed_while_faiss_kind_encodes(tmp_path):
    pytest.importorskip("faiss")
    killed(tmp_path / "index", 1, "hnsw")
    encoder = Fake()
    index = rr.VectorIndex.build(CORPUS, encoder, path=tmp_path / "index", kind="hnsw")
    other = rr.VectorIndex.build(CORPUS, Fake(), kind="hnsw")
    assert sum(encoder.batches) == N - BATCH and index.kind == "hnsw"
    query = vector("q")[None]
    assert index.search(query, 9)[0][0].tolist() == other.search(query, 9)[0][0].tolist()
    assert index.search(query, 9)[0][1].tobytes() == other.search(query, 9)[0][1].tobytes()


@pytest.mark.parametrize("lost", ["cut", "flip", "more"])
@pytest.mark.parametrize("at", [0.4, 0.6, 0.999])
def test_what_is_not_whole_is_encoded_again(path, whole, lost, at):
    data = bytearray(partial(path).read_bytes())
    place = int(len(data) * at)
    if lost == "cut":
        del data[place:]
    elif lost == "flip":
        data[place] ^= 0x20
    else:
        data += data[place:]
    partial(path).write_bytes(data)
    encoder = Fake()
    rr.VectorIndex.build(CORPUS, encoder, path=path)
    assert path.read_bytes() == whole
    assert sum(encoder.batches) == {"cut": 1, "flip": 1, "more": 0}[lost] * (3 - int(at * 3)) * BATCH + BATCH + 3


@pytest.mark.parametrize("length", [0, 8, 12, 19, 40])
def test_a_head_that_is_not_whole_begins_anew(path, whole, length):
    partial(path).write_bytes(partial(path).read_bytes()[:length])
    rr.VectorIndex.build(CORPUS, Fake(), path=path)
    assert path.read_bytes() == whole


def test_a_head_that_is_damaged_or_of_another_version_is_refused(path, left):
    for data, what in (
        (left[:8] + b"\2" + left[9:], "of version 2"),
        (left[:25] + bytes([left[25] ^ 1]) + left[26:], "whose head is damaged"),
        (left[:5], "a file of something else"),
    ):
        partial(path).write_bytes(data)
        with pytest.raises(InputError, match=what):
            rr.VectorIndex.build(CORPUS, Fake(), path=path)
        assert partial(path).read_bytes() == data


def test_a_link_is_not_followed(path, left, tmp_path):
    (tmp_path / "victim").write_bytes(b"")
    partial(path).unlink()
    partial(path).symlink_to(tmp_path / "victim")
    with pytest.raises(InputError):
        rr.VectorIndex.build(CORPUS, Fake(), path=path)
    assert (tmp_path / "victim").read_bytes() == b""


def test_what_is_before_a_bad_record_is_kept(path, whole):
    data = bytearray(partial(path).read_bytes())
    data[len(data) // 2] ^= 0x20  # in the second of three batches
    partial(path).write_bytes(data)
    encoder = Fake()
    rr.VectorIndex.build(CORPUS, encoder, path=path)
    assert encoder.batches == [BATCH, BATCH, BATCH, 3] and path.read_bytes() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:8] + b"\x02" + data[9:], "of version 2; expected a whole head of version 1"),
        (lambda data: data[:12] + b"~", "head is damaged"),
        (lambda data: data[:40] + b"~", "head is damaged"),
        (lambda data: data[:12] + b"\xff\xff\xff\xff" + data[16:], "head is damaged"),
        (lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:], "head is damaged"),
    ],
)
def test_another_version_or_a_bad_head_is_refused_and_left_alone(path, whole, change, message):
    there = change(partial(path).read_bytes())
    partial(path).write_bytes(there)
    with pytest.raises(InputError, match=rf"{message}.*resume=False"):
        rr.VectorIndex.build(CORPUS, Fake(), path=path)
    assert partial(path).read_bytes() == there
    rr.VectorIndex.build(CORPUS, Fake(), path=path, resume=False)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("text", [MAGIC[:1], MAGIC[:5], b"my notes"])
def test_a_file_that_begins_alike_is_not_ours(tmp_path, text, resume):
    partial(tmp_path / "index").write_bytes(text)
    with pytest.raises(InputError, match="a file of something else"):
        rr.VectorIndex.build(CORPUS, Fake(), path=tmp_path / "index", resume=resume)
    assert partial(tmp_path / "index").read_bytes() == text


@pytest.mark.parametrize("content", [b"", MAGIC, None])
def test_links_are_not_followed(tmp_path, content):
    other = tmp_path / "other"
    if content is not None:
        other.write_bytes(content)
    partial(tmp_path / "index").symlink_to(other)
    for resume in (True, False):
        with pytest.raises(InputError, match="a symbolic link"):
            rr.VectorIndex.build(CORPUS, Fake(), path=tmp_path / "index", resume=resume)
        assert (other.read_bytes() if other.exists() else None) == content and partial(tmp_path / "index").is_symlink()


def test_another_corpus_or_encoder_is_refused_and_keeps_what_is_there(path, left):
    other = rr.Corpus.from_texts([*TEXTS[:-1], "changed"])
    for corpus, encoder, what in ((other, Fake(), "corpus"), (CORPUS, Fake("g"), "encoder"), (CORPUS, Fake(None), "encoder")):
        with pytest.raises(InputError, match=rf"partial: got an unfinished build of other {what}.*resume=False"):
            rr.VectorIndex.build(corpus, encoder, path=path)
        assert partial(path).read_bytes() == left and not encoder.batches
    index = rr.VectorIndex.build(other, Fake(), path=path, resume=False)
    assert (index.vectors[-1] == vector("changed")).all() and not partial(path).exists()


def test_an_encoder_that_does_not_say_what_it_is_starts_over(tmp_path):
    class Fails(Fake):
        def encode_counted(self, texts, *, progress=None):
            if len(self.batches) == 2:
                raise RuntimeError("no more")
            return super().encode_counted(texts)

    with pytest.raises(RuntimeError, match="no more"):
        rr.VectorIndex.build(CORPUS, Fails(None), path=tmp_path / "index")
    assert not list(tmp_path.iterdir()), "nobody could go on with it"
    with pytest.raises(RuntimeError, match="no more"):
        rr.VectorIndex.build(CORPUS, Fails(), path=tmp_path / "index")
    encoder = Fake()
    index = rr.VectorIndex.build(CORPUS, encoder, path=tmp_path / "index")
    assert sum(encoder.batches) == N - 2 * BATCH and index.made_by["fingerprint"] == "f"
    assert rr.VectorIndex.build(CORPUS, Fake(None), path=tmp_path / "index").made_by is None, "an index is replaced"


def test_one_build_at_a_time_and_no_file_of_another_kind(path):
    with partial(path).open("r+b") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            rr.VectorIndex.build(CORPUS, Fake(), path=path)
    partial(path).write_text("my notes, which are long enough")
    with pytest.raises(InputError, match="a file of something else"):
        rr.VectorIndex.build(CORPUS, Fake(), path=path, resume=False)
    assert partial(path).read_text().startswith("my notes")


def test_a_cancelled_build_goes_on(tmp_path):
    encoder = Fake()
    with pytest.raises(Cancelled), rr.limited(cancelled=lambda: len(encoder.batches) == 2):
        rr.VectorIndex.build(CORPUS, encoder, path=tmp_path / "index")
    again = Fake()
    rr.VectorIndex.build(CORPUS, again, path=tmp_path / "index")
    assert sum(again.batches) == N - 2 * BATCH


def test_in_memory_is_the_same_as_in_a_file(tmp_path):
    for normalize, dim, metric in (
        (False, None, "inner product"),
        (True, None, "inner product"),
        (True, 4, "cosine"),
        (False, 4, "inner product"),
    ):
        encoder = Fake(normalize=normalize)
        memory = rr.VectorIndex.build(CORPUS, encoder, dim=dim)
        file = rr.VectorIndex.build(CORPUS, encoder, dim=dim, path=tmp_path / "index")
        assert memory.metric == file.metric == metric and memory.given_dim == file.given_dim == DIM and memory.dim == (dim or DIM)
        assert (memory.vectors == file.vectors).all() and (memory.truncated_tokens == file.truncated_tokens).all()
        assert file.truncated_tokens.tolist() == [zlib.crc32(text.encode()) % 2 for text in TEXTS] and memory.made_by == file.made_by
    if dim and normalize:
        assert np.allclose(np.linalg.norm(memory.vectors, axis=1), 1)


class Wrong(Fake):
    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def encode_counted(self, texts, *, progress=None):
        return self.change(*super().encode_counted(texts))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda v, cut: (v[1:], cut), InputError),
        (lambda v, cut: (v, cut[1:]), InputError),
        (lambda v, cut: (v[:, 0], cut), InputError),
        (lambda v, cut: (v * np.float32(np.nan), cut), NonFiniteError),
        (lambda v, cut: (v[:, : 5 if len(v) < BATCH else 6], cut), InputError),
    ],
)
def test_encoders_that_are_wrong(tmp_path, change, error):
    for path in (None, tmp_path / "index"):
        with pytest.raises(error, match=r"VectorIndex\.build: encoder"):
            rr.VectorIndex.build(CORPUS, Wrong(change), path=path)
        assert not (tmp_path / "index").exists()


class Plain:
    """The least that an encoder is."""

    def __init__(self, change=lambda vectors: vectors) -> None:
        self.change = change

    def encode(self, texts, queries=False):
        assert not queries
        return self.change([vector(text).tolist() for text in texts])


class Other:
    """As other libraries have it."""

    def encode(self, sentences, **options):
        raise AssertionError


def test_any_encoder_builds(tmp_path):
    want = np.stack([vector(text) for text in TEXTS])
    for path in (None, tmp_path / "index"):
        index = rr.VectorIndex.build(CORPUS, Plain(), path=path)
        assert (index.vectors == want).all() and index.made_by is None and not index.truncated_tokens.any()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda v: v[1:], InputError),
        (lambda v: v[0], InputError),
        (lambda v: [*v[:-1], [1.0]], InputError),
        (lambda v: [[] for _ in v], InputError),
        (lambda v: [["a"] for _ in v], InputError),
        (lambda v: None, InputError),
        (lambda v: np.full((len(v), DIM), np.inf), NonFiniteError),
    ],
)
def test_answers_of_an_encoder_that_are_none(change, error):
    with pytest.raises(error, match=r"VectorIndex\.build: encoder"):
        rr.VectorIndex.build(CORPUS, Plain(change))


def test_what_is_refused_before_anything_is_encoded(tmp_path):
    encoder = Fake()
    for options in ({"kind": "tree"}, {"metric": "l2"}, {"keep": "int8"}, {"dim": 0}, {"nlist": 3}, {"path": tmp_path},
                    {"path": tmp_path / "a" / "b"}):  # fmt: skip
        with pytest.raises(InputError):
            rr.VectorIndex.build(CORPUS, encoder, **options)
    for wrong in (object(), Fake, Other()):
        with pytest.raises(InputError, match=r"one with encode\(texts, queries=\.\.\.\)"):
            rr.VectorIndex.build(CORPUS, wrong)
    assert not encoder.batches and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="at most 6"):
        rr.VectorIndex.build(CORPUS, encoder, dim=7, path=tmp_path / "index")
    assert encoder.batches == [BATCH]
