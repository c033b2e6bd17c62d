from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import cross, point_outside, wrap, write_model
from onnx import helper, numpy_helper

import rerank_engine as rr
from rerank_engine.errors import CorruptModelError
from rerank_engine.runtimes.onnx_file import inspect

HERE = Path("model.onnx")
QUANTIZED = cross(quantized=True).SerializeToString()


def outside(location: str) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "t")
    point_outside(tensor, location)
    return tensor


def sparse(values: str, indices: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside(values), indices=outside(indices), dims=[4])


def graph(*nodes: onnx.NodeProto, **parts: object) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], **parts)


def attribute(**values: object) -> onnx.NodeProto:
    return helper.make_node("Thing", [], ["x"], **values)


def nested(depth: int) -> onnx.GraphProto:
    inner = graph(helper.make_node("Deepest", [], ["x"]), initializer=[outside("deep")])
    for _ in range(depth):
        inner = graph(helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=graph()))
    return inner


def with_function(*nodes: onnx.NodeProto, defaults: tuple[onnx.AttributeProto, ...] = ()) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("ours", "Fn", [], ["x"], list(nodes), opsets, attribute_protos=list(defaults))
    return wrap(graph(helper.make_node("Fn", [], ["y"], domain="ours")), functions=[function])


def with_training() -> onnx.ModelProto:
    model = wrap(graph(helper.make_node("Top", [], ["x"])))
    training = model.training_info.add()
    training.initialization.CopyFrom(graph(helper.make_node("Begin", [], ["y"]), initializer=[outside("a")]))
    training.algorithm.CopyFrom(graph(helper.make_node("Step", [], ["y"]), initializer=[outside("b")]))
    return model


PLACES = {
    "initializer": (wrap(graph(helper.make_node("Top", [], ["x"]), initializer=[outside("a"), outside("b")])), {"Top"}, {"a", "b"}),
    "sparse initializer": (wrap(graph(helper.make_node("Top", [], ["x"]), sparse_initializer=[sparse("a", "b")])), {"Top"}, {"a", "b"}),
    "tensor": (wrap(graph(attribute(value=outside("a")))), {"Thing"}, {"a"}),
    "tensors": (wrap(graph(attribute(values=[outside("a"), outside("b")]))), {"Thing"}, {"a", "b"}),
    "sparse tensor": (wrap(graph(attribute(value=sparse("a", "b")))), {"Thing"}, {"a", "b"}),
    "sparse tensors": (wrap(graph(attribute(values=[sparse("a", "b"), sparse("c", "d")]))), {"Thing"}, {"a", "b", "c", "d"}),
    "subgraph": (wrap(nested(1)), {"If", "Deepest"}, {"deep"}),
    "subgraph, nested": (wrap(nested(9)), {"If", "Deepest"}, {"deep"}),
    "subgraphs": (wrap(graph(attribute(bodies=[nested(0), graph(attribute(v=outside("a")))]))), {"Thing", "Deepest"}, {"deep", "a"}),
    "function": (with_function(attribute(value=outside("a"))), {"Fn", "Thing"}, {"a"}),
    "function, subgraph": (with_function(helper.make_node("If", [], ["x"], then_branch=nested(1))), {"Fn", "If", "Deepest"}, {"deep"}),
    "function, default": (
        with_function(attribute(), defaults=(helper.make_attribute("v", outside("a")),)),
        {"Fn", "Thing"},
        {"a"},
    ),
    "training": (with_training(), {"Top", "Begin", "Step"}, {"a", "b"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_operators_and_locations_are_found_wherever_they_hide(place):
    model, operators, locations = PLACES[place]
    found = inspect(HERE, model.SerializeToString())
    assert found.operators == operators
    assert set(found.external) == locations and len(found.external) == len(locations)


def test_each_location_once_in_the_order_of_the_file():
    model = wrap(graph(helper.make_node("Top", [], ["x"]), initializer=[outside(place) for place in "abacb"]))
    assert sorted(inspect(HERE, model.SerializeToString()).external) == ["a", "b", "c"]


def test_a_second_location_of_a_tensor_is_seen_too():
    tensor = outside("good")
    tensor.external_data.add(key="location", value="/etc/passwd")
    found = inspect(HERE, wrap(graph(helper.make_node("Top", [], ["x"]), initializer=[tensor])).SerializeToString())
    assert set(found.external) == {"good", "/etc/passwd"}


@pytest.mark.parametrize("op", ["DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"])
@pytest.mark.parametrize("where", ["top", "If", "function"])
def test_batch_sensitive_when_activations_are_quantised_while_running(op, where):
    node = helper.make_node(op, [], ["x"])
    inside = helper.make_node("If", [], ["x"], then_branch=graph(node))
    model = {"top": wrap(graph(node)), "If": wrap(graph(inside)), "function": with_function(node)}[where]
    assert inspect(HERE, model.SerializeToString()).batch_sensitive


def test_not_batch_sensitive_without():
    assert not inspect(HERE, wrap(graph(helper.make_node("QuantizeLinear", [], ["x"]))).SerializeToString()).batch_sensitive
    assert not inspect(HERE, cross().SerializeToString()).batch_sensitive
    assert inspect(HERE, QUANTIZED).batch_sensitive


def parses_or_is_corrupt(data: bytes) -> bool:
    try:
        inspect(HERE, data)
    except CorruptModelError as error:
        assert "model.onnx" in str(error)
        return False
    return True


def test_truncated_at_every_length():
    end = QUANTIZED.rindex(b"logits") + len(b"logits")  # the graph's last strings; only the operator set's version comes after
    lengths = [n for n in range(len(QUANTIZED)) if parses_or_is_corrupt(QUANTIZED[:n])]
    assert all(n > end for n in lengths), "a graph that is cut must not be taken for a whole one"
    assert parses_or_is_corrupt(QUANTIZED)


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 100, b"not a model", b"PK\3\4" + b"\0" * 60, b"<html></html>", b"\x08\x08"])
def test_garbage_and_empty(tmp_path, data):
    with pytest.raises(CorruptModelError):
        inspect(HERE, data)
    folder = write_model(tmp_path, cross())
    (folder / "model.onnx").write_bytes(data)
    with pytest.raises(CorruptModelError, match=r"model\.onnx"):
        rr.load(folder, device="cpu")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes(data):
    parses_or_is_corrupt(data)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(QUANTIZED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes(changes):
    data = bytearray(QUANTIZED)
    for place, value in changes:
        data[place] = value
    parses_or_is_corrupt(bytes(data))


def test_a_truncated_file_does_not_load(tmp_path):
    folder = write_model(tmp_path, cross())
    data = (folder / "model.onnx").read_bytes()
    for n in [*range(0, len(data), 97), len(data) - 1]:
        (folder / "model.onnx").write_bytes(data[:n])
        with pytest.raises(CorruptModelError):
            rr.load(folder, device="cpu")


def test_graphs_nested_too_deep_are_corrupt_and_no_crash():
    inner = helper.make_graph([helper.make_node("Deepest", [], ["x"])], "g", [], []).SerializeToString()
    for _ in range(5000):  # by hand, since the package itself refuses to nest so deep
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # Attribute.g, Node.attribute, Graph.node
            inner = tag + varint(len(inner)) + inner
    with pytest.raises(CorruptModelError):
        inspect(HERE, b"\x3a" + varint(len(inner)) + inner)


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])
