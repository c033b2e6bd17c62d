from __future__ import annotations

import json

import numpy as np
import pytest
from late_models import write_tensors

from rerank_engine.errors import CorruptModelError
from rerank_engine.runtimes.safetensors import read_tensors

TENSORS = {"a": np.arange(6).reshape(2, 3) / 8, "b": np.array([-1.5]), "empty": np.zeros((0, 4)), "scalar": np.array(2.0)}


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_was_written_is_read(tmp_path, dtype):
    found = read_tensors(write_tensors(tmp_path / "m", TENSORS, dtype), ["scalar", "a", "empty", "nothing"])
    assert list(found) == ["scalar", "a", "empty"]
    for name, tensor in found.items():
        assert tensor.dtype == np.float32 and tensor.shape == TENSORS[name].shape and (tensor == TENSORS[name]).all()


def test_bfloat16_keeps_the_upper_half_of_a_float(tmp_path):
    data = np.array([0x3F80, 0xC049, 0x0001, 0x7F7F], np.uint16)  # 1, -3.140625, the smallest and the largest
    path = write(tmp_path / "m", {"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, data.tobytes())
    assert read_tensors(path, ["a"])["a"].tolist() == [1.0, -3.140625, 2.0**-133, 255 * 2.0**120]


def test_tensors_of_another_dtype_may_stand_beside(tmp_path):
    header = {"n": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}, "x": {"dtype": "F7", "shape": [9], "data_offsets": [8, 9]}}
    header["a"] = {"dtype": "F32", "shape": [1], "data_offsets": [9, 13]}
    path = write(tmp_path / "m", header, bytes(9) + np.float32(7).tobytes())
    assert read_tensors(path, ["a"])["a"].tolist() == [7]
    with pytest.raises(CorruptModelError, match="tensor 'n' of I64; expected one of F32, F16, BF16"):
        read_tensors(path, ["n"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    path = write_tensors(tmp_path / "m", {"a": np.array([1, value]), "b": np.ones(2)})
    assert list(read_tensors(path, ["b"])) == ["b"]
    with pytest.raises(CorruptModelError, match="NaN or infinity in tensor 'a'"):
        read_tensors(path, ["a"])


def entry(**changed):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


BROKEN = {
    "beyond the end": entry(shape=[3], data_offsets=[0, 12]),
    "backwards": entry(data_offsets=[8, 0]),
    "negative": entry(data_offsets=[-8, 0]),
    "too few bytes for the shape": entry(shape=[3]),
    "a negative size": entry(shape=[-2]),
    "sizes whose product overflows": entry(shape=[2**61, 8]),
    "nine dimensions": entry(shape=[2] + [1] * 8),
    "a shape of a hundred thousand": entry(shape=[2**61] * 100_000),
    "a size that is a truth": entry(shape=[True, 2]),
    "a fractional size": entry(shape=[2.0]),
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "three offsets": entry(data_offsets=[0, 4, 8]),
    "an entry that is none": {"a": 5},
    "bytes left over": entry(shape=[1], data_offsets=[0, 4]),
    "a hole": {**entry(shape=[1], data_offsets=[4, 8])},
    "an overlap": {**entry(), "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "another dtype": entry(dtype="F64", shape=[1]),
    "a dtype that is none": entry(dtype=None),
    "a list": [entry()],
    "no JSON": b'{"a": ',
    "not UTF-8": b"\xff\xfe",
    "brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_breaks_the_layout(tmp_path, case):
    with pytest.raises(CorruptModelError, match="m: got"):
        read_tensors(write(tmp_path / "m", BROKEN[case], bytes(8)), ["a"])


@pytest.mark.parametrize("length", [0, 1, 7, 10**6, 2**63, 2**64 - 1])
def test_a_header_length_that_is_none(tmp_path, length):
    with pytest.raises(CorruptModelError):
        read_tensors(write(tmp_path / "m", entry(), bytes(8), length=length), ["a"])


def test_every_truncation_is_found_and_every_flip_of_the_header_gives_one_of_our_errors_or_a_tensor(tmp_path):
    data = write_tensors(tmp_path / "m", {"a": np.ones((2, 2)), "b": np.ones(3)}).read_bytes()
    for n in range(len(data)):
        (tmp_path / "m").write_bytes(data[:n])
        with pytest.raises(CorruptModelError):
            read_tensors(tmp_path / "m", ["a", "b"])
    for n in range(len(data) - 28):
        for bit in (1, 16):
            (tmp_path / "m").write_bytes(data[:n] + bytes([data[n] ^ bit]) + data[n + 1 :])
            try:
                read_tensors(tmp_path / "m", ["a", "b"])
            except CorruptModelError:
                continue


def test_no_file(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CorruptModelError, match=r"expected a readable \.safetensors file"):
            read_tensors(path, ["a"])
