"""Quality curves: names, means over collections, what lies between two depths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank_engine.errors import FileFormatError, InputError
from rerank_engine.planning.quality import Chain, Curves, Rerank, parse

CROSS = Rerank("cross", 20)


def row(method: str, value: float, collection: str = "a", half: float = 0.02) -> dict[str, Any]:
    return {"collection": collection, "method": method, "queries": 10, "ndcg@10": value, "ndcg@10_95": [value - half, value + half]}


@pytest.mark.parametrize(
    ("method", "chain"),
    [
        ("BM25", Chain(("bm25",))),
        ("BM25 (stored run)", Chain(("bm25",))),
        ("hybrid of four", Chain(("bm25", "dense", "splade", "late"))),
        ("hybrid of dense+splade", Chain(("dense", "splade"))),
        ("cross-encoder@20", Chain(("bm25",), (CROSS,))),
        ("hybrid, cross-encoder@20", Chain(("bm25", "dense"), (CROSS,))),
        ("late interaction@100, 2 bits", Chain(("bm25",), (Rerank("maxsim", 100, "2bit"),))),
        ("late interaction, cross-encoder@20, float32", Chain(("late",), (Rerank("cross", 20, "float32"),))),
        ("dense, late interaction@100, 2 bits, cross-encoder@20", Chain(("dense",), (Rerank("maxsim", 100, "2bit"), CROSS))),
        ("cascade@100", Chain(("bm25",), (Rerank("cascade", 100),))),
        ("vectors@100", Chain(("bm25",), (Rerank("vectors", 100),))),
    ],
)
def test_a_name_says_the_chain_and_the_chain_its_name(method: str, chain: Chain) -> None:
    assert parse(method) == chain
    assert parse(chain.name) == chain


@pytest.mark.parametrize("method", ["RM3", "VectorPRF", "cross-encoder@0", "BM25, magic@20", "hybrid of dense+rm3", "2 bits", ""])
def test_what_the_planner_does_not_build_has_no_chain(method: str) -> None:
    assert parse(method) is None


def test_between_depths_quality_is_linear_in_the_logarithm() -> None:
    curves = Curves([row("BM25", 0.4), row("cross-encoder@20", 0.5), row("cross-encoder@80", 0.6)])
    chain = Chain(("bm25",), (CROSS,))
    assert curves.of(chain.at(40)).value == pytest.approx(0.55)  # type: ignore[union-attr]
    assert curves.of(chain.at(5)).value == pytest.approx(0.4 + 0.1 * np.log(5) / np.log(20))  # type: ignore[union-attr]
    assert not curves.of(chain.at(40)).measured  # type: ignore[union-attr]
    assert curves.of(chain).measured  # type: ignore[union-attr]
    assert curves.of(chain.at(81)) is None  # nothing is known beyond
    assert curves.of(Chain(("dense",), (CROSS,))) is None


def test_without_the_first_stage_nothing_is_known_before_the_first_depth() -> None:
    curves = Curves([row("cross-encoder@20", 0.5), row("cross-encoder@80", 0.6)])
    assert curves.of(Chain(("bm25",), (CROSS,)).at(10)) is None
    assert curves.of(Chain(("bm25",))) is None


def test_the_mean_is_over_what_all_collections_measured() -> None:
    rows = [row("BM25", 0.4), row("dense", 0.5), row("BM25", 0.6, "b", 0.04), row("SPLADE", 0.7, "b")]
    curves = Curves(rows)
    assert list(curves.chains) == [Chain(("bm25",))]
    found = curves.chains[Chain(("bm25",))]
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(np.hypot(0.02, 0.04) / 2)
    assert Curves(rows, ["a"]).chains[Chain(("dense",))].value == 0.5
    assert curves.queries == 20


def test_the_stored_run_is_the_first_stage_where_there_is_one() -> None:
    for order in (1, -1):
        curves = Curves([row("BM25 (stored run)", 0.5), row("BM25", 0.4)][::order])
        assert curves.chains[Chain(("bm25",))].value == 0.5


def test_what_ships_with_the_package_holds_every_family() -> None:
    curves = Curves.load()
    kinds = {rerank.kind for chain in curves.chains for rerank in chain.rerankers}
    assert kinds == {"vectors", "maxsim", "cross", "cascade"}
    assert {("bm25",), ("dense",), ("splade",), ("late",), ("bm25", "dense")} <= {chain.first for chain in curves.chains}
    assert len(curves.collections) >= 7


def test_damaged_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all its collections"):
        Curves([])
    with pytest.raises(InputError, match="all its collections"):
        Curves([row("RM3", 0.5)])
    with pytest.raises(InputError, match="one of a"):
        Curves([row("BM25", 0.5)], ["b"])
    for bad in ({"collection": "a", "method": "BM25"}, row("BM25", float("nan")), {**row("BM25", 0.5), "ndcg@10_95": 3}):
        with pytest.raises(FileFormatError):
            Curves([bad])
    path = tmp_path / "quality.json"
    for text in ("{", '{"rows": []}', json.dumps([1])):
        path.write_text(text)
        with pytest.raises(FileFormatError):
            Curves.load(path)
    with pytest.raises(FileFormatError):
        Curves.load(tmp_path / "none.json")
