from __future__ import annotations

import json

import numpy as np
import pytest
from late_models import DIM, HIDDEN, WEIGHT, write_tensors

from rerank_engine.errors import CorruptModelError, UnsafeModelError, UnsupportedModelError
from rerank_engine.runtimes.projection import Projection, read_projections

STATES = (np.random.default_rng(1).integers(-8, 9, (5, HIDDEN)) / 8).astype(np.float32)


def write(folder, name="1_Dense", weight=WEIGHT, tensors=None, **config):
    write_tensors(folder / name / "model.safetensors", {"linear.weight": weight, **(tensors or {})})
    (folder / name / "config.json").write_text(json.dumps({"in_features": weight.shape[1], "out_features": len(weight), **config}))
    return folder


def read(folder, modules=("1_Dense",), width=HIDDEN, **options):
    return read_projections("m", folder, modules, width, **options)


def through(projections, states=STATES):
    for projection in projections:
        states = projection(states)
    return states


def test_weight_bias_activation_and_residual(tmp_path):
    bias, residual = np.arange(DIM) / 4, np.ones((DIM, HIDDEN)) / 2
    tensors = {"linear.bias": bias, "residual.weight": residual}
    found = read(write(tmp_path, tensors=tensors, bias=True, use_residual=True, activation_function="torch.nn.modules.activation.ReLU"))
    assert (through(found) == np.maximum(STATES @ WEIGHT.T + bias, 0) + STATES @ residual.T).all()
    assert through(found).dtype == np.float32


@pytest.mark.parametrize(("name", "want"), [("Identity", lambda x: x), ("Tanh", np.tanh), ("ReLU", lambda x: np.maximum(x, 0))])
def test_activations(tmp_path, name, want):
    found = read(write(tmp_path, bias=False, activation_function=f"torch.nn.modules.activation.{name}"))
    assert (through(found) == want(STATES @ WEIGHT.T)).all()


def test_a_residual_between_equal_sizes_has_no_weight(tmp_path):
    square = WEIGHT[:, :DIM]
    found = read(write(tmp_path, weight=square, use_residual=True), width=DIM, dim=None, hidden=None)
    assert (through(found, STATES[:, :DIM]) == STATES[:, :DIM] @ square.T + STATES[:, :DIM]).all()


def test_several_modules_run_in_turn(tmp_path):
    write(write(tmp_path), "2_Dense", np.ones((2, DIM), np.float32))
    found = read(tmp_path, ("1_Dense", "2_Dense"))
    assert (through(found) == (STATES @ WEIGHT.T).sum(1, keepdims=True).repeat(2, 1)).all()
    assert read(tmp_path, ("1_Dense", "2_Dense"), width=2) == (), "exported with both"
    with pytest.raises(UnsupportedModelError, match=f"{DIM} dimensions.*expected {HIDDEN}, which it takes, or 2"):
        read(tmp_path, ("1_Dense", "2_Dense"), width=DIM)


def test_one_in_the_network_is_not_applied_again(tmp_path):
    assert read(write(tmp_path), width=DIM) == ()
    assert read(tmp_path / "nowhere", (), width=DIM, dim=DIM, hidden=HIDDEN) == ()
    assert read(tmp_path / "nowhere", ("root",), width=DIM, dim=DIM, hidden=HIDDEN) == (), "then its weights need not be there"
    assert read(tmp_path, (), width=384) == (), "nothing announces another dimension"


def test_where_input_and_output_are_of_one_size_the_weights_are_applied(tmp_path):
    assert len(read(write(tmp_path, weight=WEIGHT[:, :DIM]), width=DIM)) == 1


def test_the_linear_layer_of_colbert_ai(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"bert.embeddings": np.ones((9, 9)), "linear.weight": WEIGHT})
    (found,) = read(tmp_path, ("root",), dim=DIM, hidden=HIDDEN)
    assert (found(STATES) == STATES @ WEIGHT.T).all()
    with pytest.raises(CorruptModelError, match=f"got a projection to {DIM} dimensions; expected 96"):
        read(tmp_path, ("root",), dim=96, hidden=HIDDEN)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(
        CorruptModelError, match=r"got no .*model\.safetensors; expected the weights of its projection.*beside the ONNX file"
    ):
        read(tmp_path, ("root",), dim=96, hidden=384, width=384)
    with pytest.raises(UnsupportedModelError, match="gives 384 dimensions, and no weights of a projection; expected 96 dimensions"):
        read(tmp_path, (), width=384, dim=96)


@pytest.mark.parametrize("width", [HIDDEN + 1, 1])
def test_a_network_of_another_width(tmp_path, width):
    with pytest.raises(UnsupportedModelError, match=f"got {width} dimensions for its projection 1_Dense; expected {HIDDEN}.*or {DIM}"):
        read(write(tmp_path), width=width)


@pytest.mark.parametrize("module", ["../1_Dense", "/1_Dense", "a/../../b"])
def test_modules_outside_the_folder(tmp_path, module):
    with pytest.raises(UnsafeModelError, match="below the model's folder"):
        read(write(tmp_path), (module,))


def test_an_activation_that_is_not_known(tmp_path):
    with pytest.raises(UnsupportedModelError, match="activation GELU; expected one of Identity, Tanh, ReLU"):
        read(write(tmp_path, activation_function="torch.nn.modules.activation.GELU"))


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        ({"linear.weight": np.ones(4)}, {}),
        ({"linear.weight": np.ones((DIM + 1, HIDDEN))}, {}),
        ({"linear.bias": np.ones(DIM + 1)}, {}),
        ({"linear.bias": np.ones(DIM)}, {"bias": False}),
        ({}, {"bias": True}),
        ({}, {"use_residual": True}),
        ({"residual.weight": np.ones((DIM, HIDDEN))}, {"use_residual": False}),
        ({"residual.weight": np.ones((HIDDEN, DIM))}, {"use_residual": True}),
    ],
)
def test_tensors_that_do_not_fit_what_the_config_says(tmp_path, tensors, config):
    with pytest.raises(CorruptModelError, match="expected"):
        read(write(tmp_path, tensors=tensors, **{"bias": "linear.bias" in tensors, **config}))


def test_another_tensor_in_its_place(tmp_path):
    write_tensors(write(tmp_path) / "1_Dense" / "model.safetensors", {"weight": WEIGHT})
    with pytest.raises(CorruptModelError, match=rf"no tensor linear\.weight; expected linear\.weight \[{DIM}, {HIDDEN}\]"):
        read(tmp_path)


def test_by_hand():
    assert (Projection(WEIGHT)(STATES) == STATES @ WEIGHT.T).all()
