"""Updates: after every step an index is the one that a fresh build of the live documents makes, to the bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import QUERIES, WORDS, corpus, make_document, ranked
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import rerank_engine as rr
from rerank_engine.errors import DuplicateIdError, InputError, UnknownIdError
from rerank_engine.indexes import BM25Index
from rerank_engine.indexes.folder import TIER, to_merge

VARIANTS: list[dict[str, Any]] = [
    {},
    {"variant": "bm25+", "k1": 0.9},
    {"variant": "robertson", "b": 0.3, "forward": True},
    {"codes": False},
]
OTHERS = [{"variant": "bm25l", "k1": 1.2, "b": 0.75}, {"variant": "atire", "k1": 2.0, "b": 0.1}]  # all of them: the rest is the stored one


def same(index: BM25Index, live: dict[str, rr.Document], options: dict[str, Any]) -> None:
    """Compares with a fresh build of `live`, which is in order of last insertion."""
    assert len(index) == len(live)
    if not live:
        assert all(ids == [] for ids, _ in ranked(index))
        assert index.document_frequency(["w0"]) == [0]
        return
    fresh = BM25Index.build(rr.Corpus(live.values()), analyzer="simple", **options)
    assert ranked(index) == ranked(fresh)
    assert ranked(index, k=3) == ranked(fresh, k=3)
    assert index.document_frequency([*WORDS, "nope"]) == fresh.document_frequency([*WORDS, "nope"])
    for doc_id in list(live)[:: max(1, len(live) // 3)]:
        assert index.explain("w0 w1 zebra", doc_id) == fresh.explain("w0 w1 zebra", doc_id)
        assert index.corpus[index.corpus.row(doc_id)] == live[doc_id]
        [terms] = index.document_terms([index.corpus.row(doc_id)])
        assert terms == fresh.document_terms([fresh.corpus.row(doc_id)])[0]


class Updates(RuleBasedStateMachine):
    """One writer against a dictionary; a reader, and what is committed, beside it."""

    folder: Path  # set by the test; numbered below
    runs = 0

    @initialize(options=st.sampled_from(VARIANTS), in_folder=st.booleans())
    def start(self, options: dict[str, Any], in_folder: bool) -> None:
        type(self).runs += 1
        self.path, self.options, self.in_folder, self.version = self.folder / str(self.runs), options, in_folder, 0
        if in_folder:
            self.index = BM25Index.create(self.path, analyzer="simple", **options)
            self.live: dict[str, rr.Document] = {}
        else:
            self.index = BM25Index.build(corpus(3), analyzer="simple", **options)
            self.live = {document.id: document for document in corpus(3)}
        self.committed = dict(self.live)

    def new(self, numbers: set[int]) -> list[rr.Document]:
        self.version += 1
        return [make_document(number, self.version) for number in sorted(numbers)]

    @rule(numbers=st.sets(st.integers(0, 30), max_size=6))
    def add(self, numbers: set[int]) -> None:
        documents = self.new(numbers)
        if any(document.id in self.live for document in documents):
            with pytest.raises(DuplicateIdError):
                self.index.add(documents)
        else:
            assert self.index.add(iter(documents)) == len(documents)
            self.live |= {document.id: document for document in documents}

    @rule(numbers=st.sets(st.integers(0, 30), max_size=6))
    def update(self, numbers: set[int]) -> None:
        documents = self.new(numbers)
        assert self.index.update(documents) == len(documents)
        for document in documents:
            self.live.pop(document.id, None)
            self.live[document.id] = document

    @rule(data=st.data(), everything=st.sampled_from([False] * 9 + [True]))
    def delete(self, data: st.DataObject, everything: bool) -> None:
        assume(self.live)
        ids = list(self.live) if everything else data.draw(st.lists(st.sampled_from(list(self.live)), max_size=5))
        self.index.delete(ids)
        self.live = {doc_id: document for doc_id, document in self.live.items() if doc_id not in ids}

    @rule()
    def delete_unknown(self) -> None:
        with pytest.raises(UnknownIdError):
            self.index.delete([*list(self.live)[:2], "nope"])

    @rule()
    def fails_in_the_middle(self) -> None:
        def source() -> Iterator[Any]:
            yield rr.Document("new", "w0")
            raise OSError("the source broke")

        with pytest.raises(OSError, match="the source broke"):
            self.index.add(source())

    @rule()
    def merge(self) -> None:
        self.index.merge()

    @precondition(lambda self: self.in_folder)
    @rule()
    def commit(self) -> None:
        self.index.commit()
        self.committed = dict(self.live)
        BM25Index.check(self.path)

    @precondition(lambda self: self.in_folder)
    @rule()
    def reopen(self) -> None:
        self.index = BM25Index.open(self.path)
        self.live = dict(self.committed)

    @precondition(lambda self: self.in_folder)
    @rule(options=st.sampled_from(OTHERS))
    def a_reader_sees_what_is_committed(self, options: dict[str, Any]) -> None:
        same(BM25Index.open(self.path, **options, verify=True), self.committed, options)

    @rule()
    def save(self) -> None:
        path, fresh = self.folder / "saved", self.folder / "fresh"
        if self.live:
            self.index.save(path)
            BM25Index.build(rr.Corpus(self.live.values()), analyzer="simple", **self.options).save(fresh)
            assert path.read_bytes() == fresh.read_bytes()

    @invariant()
    def is_a_fresh_build(self) -> None:
        same(self.index, self.live, self.options)


def test_any_series_of_updates(tmp_path: Path, thorough: bool) -> None:
    Updates.folder = tmp_path
    many = settings(
        max_examples=200 if thorough else 30, stateful_step_count=25, deadline=None, derandomize=not thorough, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(Updates, settings=many)


def test_batches_that_go_to_disk_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 1,000 documents and more are written while they are added; the file is still the one of a build."""
    from rerank_engine.indexes import documents

    monkeypatch.setattr(documents, "BATCH", 600_000)
    many, seen = corpus(12_000), list[tuple[int, int]]()
    index = BM25Index.create(tmp_path / "folder")
    assert index.add(many, progress=lambda done, total: seen.append((done, total))) == 12_000
    assert len(seen) > TIER
    assert seen[-1] == (12_000, 0)
    assert ranked(index) == ranked(BM25Index.build(many))
    index.delete([f"d{i}" for i in range(0, 12_000, 3)])
    index.commit()
    rest = rr.Corpus(document for i, document in enumerate(many) if i % 3)
    fresh = BM25Index.build(rest)
    fresh.save(tmp_path / "fresh")
    index.save(tmp_path / "saved")
    index.merge()
    index.commit()
    assert BM25Index.check(tmp_path / "folder")["segments"] == 1
    [segment] = (tmp_path / "folder").glob("*.segment")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "fresh").read_bytes() == segment.read_bytes()
    assert ranked(BM25Index.open(tmp_path / "folder")) == ranked(fresh)


def test_nothing_comes_of_what_fails_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank_engine.indexes import documents

    monkeypatch.setattr(documents, "BATCH", 600_000)  # the first batches have gone to disk by then
    index = BM25Index.create(tmp_path / "x")
    index.add(corpus(5))
    index.commit()
    files, before = sorted(p.name for p in (tmp_path / "x").iterdir()), ranked(index)

    def source(bad: Any) -> Iterator[Any]:
        for i in range(100, 3000):
            yield make_document(i)
        if isinstance(bad, BaseException):
            raise bad
        yield bad

    broken = {
        ValueError: ValueError("x"),
        KeyboardInterrupt: KeyboardInterrupt(),
        DuplicateIdError: make_document(2),
        InputError: rr.Document("y", "z", metadata={"x": {1}}),
    }
    for kind, bad in [*broken.items(), (DuplicateIdError, make_document(100)), (InputError, "text"), (InputError, None)]:
        with pytest.raises(kind):
            index.add(source(bad))
        assert ranked(index) == before
        assert sorted(p.name for p in (tmp_path / "x").iterdir()) == files
        if not isinstance(bad, rr.Document) or bad.id != "d2":
            with pytest.raises(kind):
                index.update(source(bad))
        assert ranked(index) == before
        assert len(index) == 5
    for wrong in (5, None, rr.Document("a", "b"), "text"):
        with pytest.raises(InputError):
            index.add(wrong)  # type: ignore[arg-type]
    index.commit()
    assert ranked(BM25Index.open(tmp_path / "x", verify=True)) == before


def test_adding_nothing_and_deleting_everything(tmp_path: Path) -> None:
    index = BM25Index.create(tmp_path / "x", analyzer="simple")
    assert (len(index), ranked(index, ["w0"]), index.n_postings) == (0, [([], b"")], 0)
    index.commit()
    assert len(BM25Index.open(tmp_path / "x", verify=True)) == 0
    assert BM25Index.check(tmp_path / "x")["documents"] == 0
    assert index.add([]) == index.update([]) == 0
    index.delete([])
    index.merge()
    with pytest.raises(InputError, match="empty index"):
        index.save(tmp_path / "y")
    index.add(corpus(20))
    index.commit()
    index.delete(list(corpus(20).ids))
    assert ranked(index, QUERIES) == [([], b"")] * len(QUERIES)
    assert "d3" not in index.corpus
    with pytest.raises(UnknownIdError):
        index.delete(["d3"])
    with pytest.raises(UnknownIdError):
        index.explain("w0", "d3")
    index.commit()
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["lock", "manifest.json"]
    index = BM25Index.open(tmp_path / "x")
    index.add(reversed(list(corpus(20))))
    same(index, {document.id: document for document in reversed(list(corpus(20)))}, {})
    with pytest.raises(InputError, match=r"Pass \[id\]"):
        index.delete("d3")
    index.delete(["d3", "d3"])
    assert len(index) == 19


def test_documents_without_any_term_and_integer_terms() -> None:
    def ids(text: str) -> list[Any]:
        return [int(word) for word in text.split()]

    texts = ["", "", "5 1 1", "", "2", "1 9"]
    index = BM25Index.build(rr.Corpus.from_texts(texts[:1]), analyzer=ids)
    for i, text in enumerate(texts[1:], 1):
        index.add([rr.Document(str(i), text)])
    fresh = BM25Index.build(rr.Corpus.from_texts(texts), analyzer=ids)
    queries = ["1", "9 2", "7"]
    assert ranked(index, queries) == ranked(fresh, queries)
    index.delete(["5", "0"])
    index.merge()
    assert ranked(index, queries) == ranked(BM25Index.build(rr.Corpus.from_texts(texts[1:5], ids=list("1234")), analyzer=ids), queries)


def test_500_single_additions_leave_few_segments(tmp_path: Path) -> None:
    index, most, merged = BM25Index.create(tmp_path / "x", analyzer="simple"), 0, 0
    for i in range(500):
        before = len(index._state.members)
        index.add([make_document(i)])
        merged += len(index._state.members) <= before
        most = max(most, len(index._state.members))
    assert most <= (TIER - 1) * 4  # tiers of 1, 8, 64 and 512 documents
    assert merged < 100
    index.commit()
    assert BM25Index.check(tmp_path / "x")["segments"] <= (TIER - 1) * 4
    same(BM25Index.open(tmp_path / "x"), {document.id: document for document in corpus(500)}, {})


def test_which_segments_are_merged() -> None:
    assert to_merge([]) is None
    assert to_merge([0]) is None
    assert to_merge([1] * (TIER - 1)) is None
    assert to_merge([1] * TIER) == slice(0, TIER)
    assert to_merge([100] + [1] * TIER) == slice(1, 1 + TIER)
    assert to_merge([100] + [1] * (TIER - 1)) is None
    assert to_merge([1, 1, 100]) == slice(0, 3)
    assert to_merge([100, 8, 1, 1, 8, 100]) == slice(2, 5)
    assert to_merge([8] * 7 + [1] * 8) == slice(7, 15)
    assert to_merge([8] * 8 + [1] * 3) == slice(0, 8)
    assert to_merge([10, 10], [10, 21]) == slice(1, 2)  # more than half is deleted
    assert to_merge([10, 10], [10, 20]) is None


@pytest.mark.parametrize("batches", ["single", "growing", "mixed", "with deletions"])
def test_merges_are_few_and_move_little(batches: str) -> None:
    rng, sizes, moved, total = random.Random(3), list[int](), 0, 0
    for i in range(10_000):
        size = {"growing": i + 1, "mixed": rng.choice([1, 1, 1, 8, 9, 70, 1000])}.get(batches, 1)
        sizes.append(size)
        total += size
        if batches == "with deletions":
            at = rng.randrange(len(sizes))
            sizes[at] = max(1, sizes[at] - rng.randrange(sizes[at] // 4 + 1))
        while (run := to_merge(sizes)) is not None:
            moved += sum(sizes[run])
            sizes[run] = [sum(sizes[run])]
        assert len(sizes) <= (TIER - 1) * 9
    assert moved <= total * 12
