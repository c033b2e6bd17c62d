"""Any series of changes to a TokenIndex gives what a fresh build of the same documents gives, and damage is always seen."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from damage import cuts, flips
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from token_words import DIM, QUERY, Words, codec_for, document, vectors

import rerank_engine as rr
from rerank_engine.errors import FileFormatError, RerankError
from rerank_engine.indexes.token_members import STORAGES

CODECS = {storage: codec_for(storage) for storage in STORAGES}


class Changes(RuleBasedStateMachine):
    """A folder beside a dict of what should be in it."""

    @initialize(storage=st.sampled_from(STORAGES))
    def start(self, storage: str) -> None:
        self.storage, self.path = storage, Path(tempfile.mkdtemp())
        self.index = rr.TokenIndex.create(self.path / "f", Words(), dim=DIM, storage=storage, codec=CODECS[storage])
        self.now: dict[str, rr.Document] = {}
        self.committed: dict[str, rr.Document] = {}

    def teardown(self) -> None:
        self.index.rollback()
        shutil.rmtree(self.path)

    @rule(first=st.integers(0, 30), n=st.integers(1, 12))
    def add(self, first: int, n: int) -> None:
        new = [document(i) for i in range(first, first + n) if f"d{i}" not in self.now]
        self.index.add(new)
        self.now.update({d.id: d for d in new})

    @rule(number=st.integers(0, 40), version=st.integers(1, 3))
    def update(self, number: int, version: int) -> None:
        new = document(number, version)
        self.index.update([new])
        self.now.pop(new.id, None)
        self.now[new.id] = new

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.now)), unique=True, max_size=9)) if self.now else []
        self.index.delete(ids)
        for doc_id in ids:
            del self.now[doc_id]

    @rule()
    def commit(self) -> None:
        self.index.commit()
        self.committed = dict(self.now)

    @rule()
    def rollback(self) -> None:
        self.index.rollback()
        self.now = dict(self.committed)

    @rule()
    def merge(self) -> None:
        self.index.merge()

    @rule()
    def reopen(self) -> None:
        self.index.rollback()
        self.now = dict(self.committed)
        self.index = rr.TokenIndex.open(self.path / "f", encoder=Words())
        rr.TokenIndex.check(self.path / "f")

    @precondition(lambda self: self.now)
    @invariant()
    def like_a_fresh_build(self) -> None:
        if not any(d.text for d in self.now.values()):
            return
        rows = [vectors(d.text)[:12] for d in self.now.values()]
        fresh = rr.TokenIndex.from_embeddings(
            rr.Corpus(self.now.values()), sorted_first(rows), storage=self.storage, codec=CODECS[self.storage]
        )
        got, want = self.index.search([QUERY], 99)[0], fresh.search([QUERY], 99)[0]
        assert [self.index.corpus[r] for r in got[0]] == [fresh.corpus[r] for r in want[0]] and got[1].tobytes() == want[1].tobytes()
        assert len(self.index) == len(self.now)


def sorted_first(rows: list[np.ndarray]) -> list[np.ndarray]:
    """As they are; an empty first row keeps its dimension."""
    return [row.reshape(-1, DIM) for row in rows]


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A small file of a storage."""
    rr.TokenIndex.build(
        rr.Corpus([rr.Document("a", "w1 w2"), rr.Document("b", ""), rr.Document("c", "w3")]), Words(), storage=request.param,
        codec=CODECS[request.param],
    ).save(tmp_path / "index")  # fmt: skip
    return tmp_path / "index"


@pytest.mark.parametrize("small", STORAGES, indirect=True)
def test_check_sees_every_changed_byte_and_every_other_length(small: Path, thorough: bool) -> None:
    for at, mask in flips(small, (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF) if thorough else (0x01, 0xFF)):
        with pytest.raises(FileFormatError):
            rr.TokenIndex.check(small)
            pytest.fail(f"byte {at} changed by {mask:#x} was not seen")
    for length in cuts(small):
        with pytest.raises(FileFormatError):
            rr.TokenIndex.open(small)
            pytest.fail(f"a length of {length} was not seen")


@pytest.mark.parametrize("small", STORAGES, indirect=True)
def test_unchecked_damage_raises_or_answers_but_never_crashes(small: Path) -> None:
    """Without `verify` a changed byte may give another score; nothing worse."""
    for _ in flips(small, (0x80, 0xFF)):
        with contextlib.suppress(RerankError):
            index = rr.TokenIndex.open(small, in_memory=True)
            assert np.isfinite(index.search([QUERY], 3)[0][1]).all()
            index.top(QUERY, 2)
            index.tokens(0)


@pytest.mark.parametrize("storage", ["float16", "2bit"])
def test_check_sees_damage_in_every_file_of_a_folder(tmp_path: Path, storage: str) -> None:
    index = rr.TokenIndex.create(tmp_path / "f", Words(), dim=DIM, storage=storage, codec=CODECS[storage])
    index.add([document(2), document(3)])
    index.commit()
    index.delete(["d2"])
    index.add([rr.Document("x", "w1")])
    index.commit()
    for path in sorted(tmp_path.glob("f/*")):
        if path.name == "lock":
            continue
        data = path.read_bytes()
        for at in range(0, len(data), 7):
            path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            with pytest.raises(FileFormatError):
                rr.TokenIndex.check(tmp_path / "f")
                pytest.fail(f"{path.name}: byte {at} was not seen")
        path.write_bytes(data)
    assert rr.TokenIndex.check(tmp_path / "f")["documents"] == 2
