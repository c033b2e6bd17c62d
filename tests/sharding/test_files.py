"""The files of shards: split, join, the manifest, the commands."""

from __future__ import annotations

import json

import models
import pytest
from switched_shards import N

import rerank_engine as rr
from rerank_engine import cli
from rerank_engine.errors import DuplicateIdError, FileFormatError, InputError
from rerank_engine.sharding import ShardedIndex, join, manifest, split
from rerank_engine.sharding.shard import Shard


def test_split_and_join(bm25, tmp_path):
    seen = []
    split(bm25, tmp_path / "s", 7, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 7) for i in range(1, 8)]
    assert manifest.is_sharded(tmp_path / "s")
    kind, places = manifest.places(tmp_path / "s")
    assert kind == "bm25" and [place.base for place in places] == [0, 8, 17, 25, 34, 42, 51]
    files = [f"shard-{i:05d}.index" for i in range(7)]
    (tmp_path / "s" / manifest.FILE).unlink()
    join(tmp_path / "s", files, kind="bm25")
    assert manifest.places(tmp_path / "s")[1] == places
    join(tmp_path / "s", files[:2], kind="bm25")
    assert len(ShardedIndex.open(tmp_path / "s")) == 17


def test_bad_splits_and_joins(bm25, corpus, tmp_path):
    few = rr.BM25Index.build(corpus, analyzer="whitespace")
    few.delete([f"d{i}" for i in range(2, N)])
    for index, shards in ((bm25, 0), (bm25, N + 1), (few, 3)):
        with pytest.raises(InputError, match="shards"):
            split(index, tmp_path / "s", shards)
    for name in ("/abs/a.index", "../a.index", "", 7):
        with pytest.raises(InputError, match="names of files in the folder"):
            join(tmp_path, [name], kind="bm25")
    bm25.save(tmp_path / "a.index")
    rr.BM25Index.build(corpus, analyzer="whitespace", k1=0.5).save(tmp_path / "b.index")
    with pytest.raises(InputError, match=r"join: 'b.index'"):
        join(tmp_path, ["a.index", "b.index"], kind="bm25")
    assert not manifest.is_sharded(tmp_path)
    with pytest.raises(InputError, match="expected a BM25Index"):
        split(corpus, tmp_path / "s", 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="a new or empty folder"):
        split(bm25, tmp_path / "full", 2)
    with pytest.raises(InputError, match="kind"):
        join(tmp_path, ["x"], kind="impacts")
    with pytest.raises(InputError, match="one at least"):
        join(tmp_path, [], kind="bm25")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.index", "b.index", "full"], "nothing half-written is left"


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", '{"kind": "rerank-engine shards"}', '{"kind": "other"}',
        '{"kind": "rerank-engine shards", "index": "bm25", "shards": []}',
        '{"kind": "rerank-engine shards", "index": "bm25", "shards": [{"file": "../x", "rows": 1}]}',
        '{"kind": "rerank-engine shards", "index": "bm25", "shards": [{"file": "/x", "rows": 1}]}',
        '{"kind": "rerank-engine shards", "index": "bm25", "shards": [{"file": "x", "rows": "1"}]}',
        '{"kind": "rerank-engine shards", "index": "bm25", "shards": [7]}',
    ],
)  # fmt: skip
def test_a_damaged_manifest(tmp_path, content):
    (tmp_path / manifest.FILE).write_text(content)
    with pytest.raises(FileFormatError, match=r"shards\.json"):
        ShardedIndex.open(tmp_path)


def test_shards_that_changed_since(bm25, tmp_path):
    split(bm25, tmp_path / "s", 2)
    opened = ShardedIndex.open(tmp_path / "s")
    other = rr.BM25Index.build(rr.Corpus.from_texts(["w1"] * 30), analyzer="whitespace")
    other.save(tmp_path / "s" / "shard-00001.index")
    with pytest.raises(FileFormatError, match="another content"):
        ShardedIndex.open(tmp_path / "s")
    assert cli.main(["check", str(tmp_path / "s")]) == 2
    assert len(opened.search([models.words(3, 4)], 60)[0].rows) > 0, "what was mapped stays"
    join(tmp_path / "s", ["shard-00000.index", "shard-00001.index"], kind="bm25")
    assert len(ShardedIndex.open(tmp_path / "s")) == 60
    told = json.loads((tmp_path / "s" / manifest.FILE).read_text())
    told["shards"][0]["rows"] = 29
    (tmp_path / "s" / manifest.FILE).write_text(json.dumps(told))
    with pytest.raises(InputError, match="first row"):
        ShardedIndex.open(tmp_path / "s")


def test_an_id_that_two_files_have_is_told_when_they_are_joined(bm25, tmp_path):
    bm25.save(tmp_path / "a.index")
    rr.BM25Index.build(rr.Corpus.from_texts(["w1", "w2"], ids=["new", "d7"]), analyzer="whitespace").save(tmp_path / "b.index")
    with pytest.raises(DuplicateIdError, match="'d7' in files 0 and 1"):
        join(tmp_path, ["a.index", "b.index"], kind="bm25")


def test_the_command_tells_of_shards_that_are_missing(bm25, tmp_path, capsys, monkeypatch):
    split(bm25, tmp_path / "s", 3)
    lexical = Shard.lexical
    monkeypatch.setattr(Shard, "lexical", lambda self, *rest: 1 / 0 if self.base == 20 else lexical(self, *rest))
    assert cli.main(["search", str(tmp_path / "s"), models.words(3, 4), "--json"]) == 0
    told = capsys.readouterr()
    assert list(json.loads(told.out)["missing"]) == ["1"] and "shard 1 is missing: here: division by zero" in told.err
    with pytest.raises(SystemExit):
        cli.main(["search", str(tmp_path / "s"), "w1", "--k", "2"])


def test_the_commands(bm25, corpus, tmp_path, capsys):
    bm25.save(tmp_path / "one.index")
    assert cli.main(["shard", str(tmp_path / "one.index"), str(tmp_path / "s"), "--shards", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["documents"] for row in told["shards"]] == [20, 20, 20]
    query = models.words(3, 4)
    found = []
    for place in ("one.index", "s"):
        assert cli.main(["search", str(tmp_path / place), query, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["results"])
    assert found[0] == found[1]
    assert cli.main(["check", str(tmp_path / "s"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == N
    for option in (["--rm3"], ["--explain"], ["--html", "x"]):
        assert cli.main(["search", str(tmp_path / "s"), query, *option]) == 2
        assert f"{option[0]}: got a folder of shards; expected one index with it" in capsys.readouterr().err
    assert cli.main(["shard", str(tmp_path / "s"), str(tmp_path / "t"), "--shards", "2"]) == 2
    assert "s', a folder of shards already; expected one index" in capsys.readouterr().err and not (tmp_path / "t").exists()
    again = ["shard", str(tmp_path / "one.index"), str(tmp_path / "s"), "--shards"]
    for wrong in (["search", str(tmp_path / "s"), query, "--rm3"], [*again, "3"], [*again[:2], str(tmp_path / "t"), "--shards", "0"]):
        assert cli.main(wrong) == 2
    data = bytearray((tmp_path / "s" / "shard-00001.index").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "s" / "shard-00001.index").write_bytes(data)
    assert cli.main(["check", str(tmp_path / "s")]) == 2
