"""Updates of a TokenIndex: after every step it is the one that a fresh build of the live documents makes, to the bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crashes import leftovers
from damage import QUERIES, corpus, make_document
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from tokens_of_words import LONGEST, STORAGES, WORD_DIM, Words, codec_of, ranked_tokens, vectors

import rerank_engine as rr
from rerank_engine.errors import DuplicateIdError, InputError, NonFiniteError, UnknownIdError
from rerank_engine.indexes import TokenIndex, documents, token_build


def created(path: Path, storage: str) -> TokenIndex:
    return TokenIndex.create(path, Words(), storage=storage, dim=WORD_DIM, codec=codec_of(storage))


def fresh(live: dict[str, rr.Document], storage: str) -> TokenIndex | None:
    """None where no document has a token, which tells no dimension."""
    if not any(document.passage.split() for document in live.values()):
        return None
    return TokenIndex.build(rr.Corpus(live.values()), Words(), storage=storage, codec=codec_of(storage))


def same(index: TokenIndex, live: dict[str, rr.Document], storage: str) -> None:
    """Compares with a fresh build of `live`, which is in order of last insertion."""
    assert len(index) == len(live)
    built = fresh(live, storage)
    if built is None:
        assert all(ids == [] for ids, _ in ranked_tokens(index, QUERIES))
        return
    assert ranked_tokens(index, QUERIES) == ranked_tokens(built, QUERIES)
    query = vectors("w0 w3 w7")
    for k in (1, 4):
        got, want = index.top(query, k, [index.corpus.row(doc_id) for doc_id in live]), built.top(query, k)
        assert [index.corpus[row].id for row in got.rows] == [built.corpus[row].id for row in want.rows]
        assert got.scores.tobytes() == want.scores.tobytes()
    for doc_id in list(live)[:: max(1, len(live) // 3)]:
        row, own = index.corpus.row(doc_id), built.corpus.row(doc_id)
        assert index.corpus[row] == live[doc_id]
        assert index.tokens(row).tobytes() == built.tokens(own).tobytes()
        assert index.score(query, [row]).tobytes() == built.score(query, [own]).tobytes()
        assert index.truncated_tokens[row] == max(0, len(live[doc_id].passage.split()) - LONGEST)


class Updates(RuleBasedStateMachine):
    """One writer against a dictionary; a reader, and what is committed, beside it."""

    folder: Path  # set by the test; numbered below
    runs = 0

    @initialize(storage=st.sampled_from(STORAGES), in_folder=st.booleans())
    def start(self, storage: str, in_folder: bool) -> None:
        type(self).runs += 1
        self.path, self.storage, self.in_folder, self.version = self.folder / str(self.runs), storage, in_folder, 0
        if in_folder:
            self.index = created(self.path, storage)
            self.live: dict[str, rr.Document] = {}
        else:
            self.live = {document.id: document for document in corpus(5)}
            self.index = TokenIndex.build(rr.Corpus(self.live.values()), Words(), storage=storage, codec=codec_of(storage))
        self.committed = dict(self.live)

    def new(self, numbers: set[int]) -> list[rr.Document]:
        self.version += 1
        return [make_document(number, self.version) for number in sorted(numbers)]

    @rule(numbers=st.sets(st.integers(0, 30), max_size=6), ready=st.booleans())
    def add(self, numbers: set[int], ready: bool) -> None:
        new = self.new(numbers)

        def add() -> int:
            if ready:
                return self.index.add_embeddings(new, (vectors(document.passage) for document in new))
            return self.index.add(iter(new))

        if ready and any(len(document.passage.split()) > LONGEST for document in new):
            return  # which the encoder would cut
        if any(document.id in self.live for document in new):
            with pytest.raises(DuplicateIdError):
                add()
        else:
            assert add() == len(new)
            self.live |= {document.id: document for document in new}

    @rule(numbers=st.sets(st.integers(0, 30), max_size=6))
    def update(self, numbers: set[int]) -> None:
        new = self.new(numbers)
        assert self.index.update(new) == len(new)
        for document in new:
            self.live.pop(document.id, None)
            self.live[document.id] = document

    @rule(data=st.data(), everything=st.sampled_from([False] * 9 + [True]))
    def delete(self, data: st.DataObject, everything: bool) -> None:
        assume(self.live)
        ids = list(self.live) if everything else data.draw(st.lists(st.sampled_from(list(self.live)), max_size=5))
        self.index.delete(ids)
        self.live = {doc_id: document for doc_id, document in self.live.items() if doc_id not in ids}

    @rule()
    def fails_in_the_middle(self) -> None:
        def source() -> Iterator[Any]:
            yield rr.Document("new", "w0")
            raise OSError("the source broke")

        with pytest.raises(OSError, match="the source broke"):
            self.index.add(source())
        with pytest.raises(UnknownIdError):
            self.index.delete([*list(self.live)[:2], "nope"])
        with pytest.raises(InputError, match="dimension 3"):
            self.index.add_embeddings([rr.Document("new", "")], [np.eye(3, dtype=np.float32)])

    @rule()
    def merge(self) -> None:
        self.index.merge()

    @precondition(lambda self: self.in_folder)
    @rule()
    def commit(self) -> None:
        self.index.commit()
        self.committed = dict(self.live)
        TokenIndex.check(self.path)
        assert not leftovers(self.path)

    @precondition(lambda self: self.in_folder)
    @rule()
    def rollback(self) -> None:
        self.index.rollback()
        self.live = dict(self.committed)

    @precondition(lambda self: self.in_folder)
    @rule()
    def reopen(self) -> None:
        self.index = TokenIndex.open(self.path, encoder=Words())
        self.live = dict(self.committed)

    @precondition(lambda self: self.in_folder)
    @rule()
    def a_reader_sees_what_is_committed(self) -> None:
        same(TokenIndex.open(self.path, verify=True), self.committed, self.storage)

    @rule()
    def save(self) -> None:
        path, other, built = self.folder / "saved", self.folder / "fresh", fresh(self.live, self.storage)
        if built is not None:
            self.index.save(path)
            built.save(other)
            assert path.read_bytes() == other.read_bytes()
            TokenIndex.check(path)

    @invariant()
    def is_a_fresh_build(self) -> None:
        same(self.index, self.live, self.storage)


def test_any_series_of_updates(tmp_path: Path, thorough: bool) -> None:
    Updates.folder = tmp_path
    many = settings(
        max_examples=200 if thorough else 30, stateful_step_count=20, deadline=None, derandomize=not thorough, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Updates, settings=many)


@pytest.mark.parametrize("storage", ["float16", "int8", "2bit"])
def test_batches_that_go_to_disk_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    monkeypatch.setattr(documents, "BATCH", 200_000)
    monkeypatch.setattr(token_build, "BATCH", 50)
    many, seen, index = corpus(2000), list[tuple[int, int]](), created(tmp_path / "folder", storage)
    encoder = index.encoder = Words()
    assert index.add(many, progress=lambda done, total: seen.append((done, total))) == 2000
    assert len(seen) > 3
    assert seen[-1] == (2000, 0)
    assert max(encoder.batches) <= 50
    assert len(list((tmp_path / "folder").glob("*.segment"))) > 3  # before any commit
    index.delete([f"d{i}" for i in range(0, 2000, 3)])
    index.commit()
    rest = {document.id: document for i, document in enumerate(many) if i % 3}
    index.merge()
    index.commit()
    assert not leftovers(tmp_path / "folder")
    assert TokenIndex.check(tmp_path / "folder")["segments"] == 1
    index.save(tmp_path / "saved")
    built = fresh(rest, storage)
    assert built is not None
    built.save(tmp_path / "fresh")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "fresh").read_bytes()
    [segment] = (tmp_path / "folder").glob("*.segment")
    if storage == "float16":
        assert segment.read_bytes() == (tmp_path / "fresh").read_bytes()
    else:
        assert storage != "2bit" or segment.stat().st_size < (tmp_path / "fresh").stat().st_size  # the codec lies in the folder once
    assert ranked_tokens(TokenIndex.open(tmp_path / "folder"), QUERIES) == ranked_tokens(built, QUERIES)


class Fails(Words):
    """An encoder that fails, or gives what it should not, when it meets a word."""

    def encode_documents(self, texts: Sequence[str], *, progress: Any = None) -> tuple[rr.Packed, np.ndarray]:
        packed, dropped = super().encode_documents(texts)
        words = " ".join(texts).split()
        if "interrupt" in words:
            raise KeyboardInterrupt
        if "nan" in words:
            packed.values[-1] = np.nan
        if "wider" in words:
            packed = rr.Packed(np.hstack([packed.values, packed.values]), packed.offsets)
        if "fewer" in words:
            packed = rr.Packed(packed.values, np.delete(packed.offsets, 0 if packed.offsets[1] == 0 else 1))
        return packed, dropped


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (rr.Document("x", "interrupt"), KeyboardInterrupt),
        (rr.Document("x", "nan"), NonFiniteError),
        (rr.Document("x", "wider"), InputError),
        (rr.Document("x", "fewer"), InputError),
        (rr.Document("x", "w0", metadata={"x": {1}}), InputError),
        (rr.Document("d100", "w0"), DuplicateIdError),
        ("text", InputError),
        (None, InputError),
    ],
)
def test_nothing_comes_of_what_fails_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Any, error: type[BaseException]
) -> None:
    monkeypatch.setattr(documents, "BATCH", 200_000)  # the first batches have gone to disk by then
    index = TokenIndex.create(tmp_path / "x", Fails(), dim=WORD_DIM)
    index.add(corpus(5))
    index.commit()
    files, before = sorted(p.name for p in (tmp_path / "x").iterdir()), ranked_tokens(index, QUERIES)
    for change in (index.add, index.update):
        with pytest.raises(error):
            change([*(make_document(i) for i in range(100, 1100)), bad])
        assert ranked_tokens(index, QUERIES) == before
        assert sorted(p.name for p in (tmp_path / "x").iterdir()) == files
    index.commit()
    assert ranked_tokens(TokenIndex.open(tmp_path / "x", verify=True), QUERIES) == before


def test_bad_arguments_of_changes(tmp_path: Path) -> None:
    index = TokenIndex.create(tmp_path / "x", dim=WORD_DIM)
    for change in (index.add, index.update):
        with pytest.raises(InputError, match=r"no encoder.*add_embeddings"):
            change(corpus(2))
    document, row = rr.Document("a", "b"), vectors("w0")
    cases: list[tuple[Any, Any, str]] = [
        ([document], [], "one row a document"),
        ([document], iter([]), "embeddings of 0 documents"),
        ([document], iter([row, row]), "embeddings of more than 1 documents"),
        ([], iter([row]), "no document"),
        ([document], 5, "a Packed, or arrays"),
        ([document], "x", "a Packed, or arrays"),
        ([document], [row[0]], r"shape \[8\]"),
        ([document, rr.Document("b", "")], [row, row[:, :4]], "dimensions"),
        (["text"], [row], "documents"),
    ]
    for documents_, embeddings, said in cases:
        with pytest.raises(InputError, match=said):
            index.add_embeddings(documents_, embeddings)
    assert (len(index), index.add_embeddings([], [])) == (0, 0)
    with pytest.raises(InputError, match=r"Pass \[id\]"):
        index.delete("a")
    with pytest.raises(InputError, match="empty index"):
        index.save(tmp_path / "y")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize("storage", ["float16", "2bit"])
def test_adding_nothing_and_deleting_everything(tmp_path: Path, storage: str) -> None:
    index = created(tmp_path / "x", storage)
    index.commit()
    assert TokenIndex.check(tmp_path / "x")["documents"] == len(TokenIndex.open(tmp_path / "x", verify=True)) == 0
    assert ranked_tokens(index, ["w0"]) == [([], b"")]
    assert index.score(vectors("w0")).tolist() == []
    index = TokenIndex.open(tmp_path / "x", encoder=Words())  # the codec is there, though no document is
    index.add([rr.Document("only", "")])
    index.add(corpus(20))
    index.commit()
    index.delete([*corpus(20).ids, "only"])
    index.commit()
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == [*(["codec"] if storage == "2bit" else []), "lock", "manifest.json"]
    index = TokenIndex.open(tmp_path / "x", encoder=Words())
    index.add(reversed(list(corpus(20))))
    same(index, {document.id: document for document in reversed(list(corpus(20)))}, storage)


def test_what_was_seen_before_an_update_stays(tmp_path: Path) -> None:
    index = created(tmp_path / "x", "int8")
    index.add(corpus(10))
    index.commit()
    before, reader, ranking = index.snapshot(), TokenIndex.open(tmp_path / "x"), ranked_tokens(index, QUERIES)
    for version in range(1, 5):
        index.update([make_document(n, version) for n in range(10)])
        index.merge()
        index.commit()
        assert ranked_tokens(before, QUERIES) == ranked_tokens(reader, QUERIES) == ranking
    with pytest.raises(InputError, match="without a folder"):
        before.commit()
    with pytest.raises(InputError, match="a newer commit"):
        reader.delete(["d1"])


def test_searches_during_updates_see_one_state_whole(tmp_path: Path) -> None:
    index = created(tmp_path / "x", "2bit")
    index.add([rr.Document(f"d{i}", "w1", metadata={"v": 0}) for i in range(20)])
    stop, problems, seen = threading.Event(), list[str](), set[str]()

    def search() -> None:
        try:
            while not stop.is_set():
                [(ids, scores)] = ranked_tokens(index, ["w1"])
                seen.add(scores.hex())
                if len(ids) != 20 or len(set(np.frombuffer(scores, np.float32))) != 1:
                    problems.append(f"{len(ids)} documents")
        except Exception as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(1, 60):
        index.update([rr.Document(f"d{i}", f"w{version % 40}", metadata={"v": version}) for i in range(20)])
        if version % 5 == 0:
            index.commit()
        if version % 7 == 0:
            index.merge()
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(seen) > 1
