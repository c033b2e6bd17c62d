from __future__ import annotations

import numpy as np
import pytest

from rerank_engine import Packed
from rerank_engine.errors import InputError


def test_rows_come_back() -> None:
    rows = [[1, 2], [], [3]]
    packed = Packed.from_rows(rows, np.int32)
    assert [row.tolist() for row in packed] == rows
    assert packed[-1].tolist() == [3]
    assert packed.lengths.tolist() == [2, 0, 1]
    assert packed.values.dtype == np.int32
    assert len(Packed.from_rows([], np.int32)) == 0
    assert Packed.from_rows([np.ones((2, 4)), np.ones((1, 4))]).values.shape == (3, 4)
    with pytest.raises(IndexError):
        packed[3]


@pytest.mark.parametrize("offsets", [[0, 3], [1, 2], [0, 2, 1, 2], [], [[0, 2]], [0.0, 2.0]])
def test_offsets_that_do_not_fit_are_refused(offsets: list) -> None:
    with pytest.raises(InputError, match="offsets"):
        Packed(np.zeros(2), np.array(offsets))


def test_a_scalar_is_refused() -> None:
    with pytest.raises(InputError, match="values"):
        Packed(np.float32(1), np.array([0]))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [[], [2], [2, 0], [1, 1, 0, 1], [0, 1, 2, 3], [3, 2, 1, 0]])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_take_gives_the_rows_in_the_order_asked_for(rows: list, shape: tuple) -> None:
    packed = Packed(np.arange(6 * int(np.prod(shape)), dtype=np.int16).reshape(6, *shape), np.array([0, 2, 2, 5, 6]))
    got = packed.take(np.array(rows, np.int64))
    assert [row.tolist() for row in got] == [packed[i].tolist() for i in rows]
    assert got.values.dtype == np.int16 and got.values.shape[1:] == shape and len(got) == len(rows)
    got.values[...] = -1
    assert (packed.values >= 0).all(), "a copy"


@pytest.mark.parametrize(("start", "end"), [(0, 4), (0, 0), (4, 4), (1, 2), (2, 4), (0, 3), (1, 4)])
def test_part_is_a_view_of_neighbours(start: int, end: int) -> None:
    packed = Packed(np.arange(6), np.array([0, 2, 2, 5, 6]))
    got = packed.part(start, end)
    assert [row.tolist() for row in got] == [packed[i].tolist() for i in range(start, end)]
    assert got.offsets[0] == 0 and len(got) == end - start
    if len(got.values):
        assert np.shares_memory(got.values, packed.values)
