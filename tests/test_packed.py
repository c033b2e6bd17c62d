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
