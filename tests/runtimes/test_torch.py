"""The torch runtime against transformers, family by family, and against itself: any batch, any order, kernels or not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from reference_models import DECODERS, FAMILIES, answers, make, sequences, torch

from rerank_engine.errors import BackendUnavailable, InputError, ModelError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.runtimes.checkpoint import read_checkpoint
from rerank_engine.runtimes.torch import SHARED, TorchRuntime, common_prefix

LENGTHS = [40, 40, 33, 17, 17, 17, 5, 2, 1, 139]
CUDA = torch.cuda.is_available()


def config_of(model) -> dict:  # type: ignore[no-untyped-def]
    return model.config.to_dict()


def packed(rows: list[np.ndarray]) -> Packed:
    return Packed.from_rows(rows, np.int64)


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path):  # type: ignore[no-untyped-def]
    model = make(tmp_path, request.param, labels=2)
    return request.param, model, read_checkpoint("tiny", tmp_path, config_of(model))


def test_logits_are_those_of_transformers(loaded) -> None:  # type: ignore[no-untyped-def]
    _, model, encoder = loaded
    ids, types = sequences(LENGTHS, types=encoder.architecture.types)
    got = TorchRuntime(encoder).run(packed(ids), packed(types), "logits")
    assert got.dtype == np.float32 and got.shape == (len(ids), 2)
    np.testing.assert_allclose(got, answers(model, ids, types), atol=1e-4)


def test_a_score_does_not_depend_on_its_neighbours(loaded) -> None:  # type: ignore[no-untyped-def]
    _, _, encoder = loaded
    runtime, (ids, types) = TorchRuntime(encoder), sequences(LENGTHS, seed=1, types=encoder.architecture.types)
    alone = np.concatenate([runtime.run(packed([i]), packed([t]), "logits") for i, t in zip(ids, types)])
    together = runtime.run(packed(ids), packed(types), "logits")
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = runtime.run(packed([ids[i] for i in order]), packed([types[i] for i in order]), "logits")
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(shuffled, alone[order], atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_states_of_an_encoder_without_a_head(tmp_path: Path, family: str) -> None:
    model = make(tmp_path, family, "Model")
    encoder = read_checkpoint("tiny", tmp_path, config_of(model) | {"architectures": [FAMILIES[family][0] + "Model"]})
    runtime, (ids, types) = TorchRuntime(encoder), sequences([9, 4, 4], types=encoder.architecture.types)
    assert runtime.outputs == ("last_hidden_state",)
    states = runtime.run(packed(ids), packed(types), "last_hidden_state")
    assert states.shape == (3, 9, 64)
    for row, segments, got in zip(ids, types, states):
        more = {"token_type_ids": torch.from_numpy(segments)[None]} if family == "bert" else {}
        with torch.no_grad():
            wanted = model(torch.from_numpy(row)[None], **more).last_hidden_state[0].numpy()
        np.testing.assert_allclose(got[: len(row)], wanted, atol=1e-4)
        assert not got[len(row) :].any()


def test_tokens_that_are_not_attended_change_nothing_but_themselves(tmp_path: Path) -> None:
    encoder = read_checkpoint("tiny", tmp_path, config_of(make(tmp_path, "bert")))
    runtime, (ids, types) = TorchRuntime(encoder), sequences([12, 12, 7])
    attended = np.array([8, 12, 3])
    masked = runtime.run(packed(ids), packed(types), "logits", attended)
    shorter = [row[:n] for row, n in zip(ids, attended)], [row[:n] for row, n in zip(types, attended)]
    np.testing.assert_allclose(masked, runtime.run(*map(packed, shorter), "logits"), atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_says_yes_or_no(tmp_path: Path, family: str) -> None:
    """logit = yes - no of the LM head at the last token, whether the head has numbers of its own or those of the embedding."""
    for tied in (True, False):
        folder = tmp_path / str(tied)
        model = make(folder, family, "ForCausalLM", tie_word_embeddings=tied)
        encoder = read_checkpoint("tiny", folder, config_of(model), choice=(7, 11))
        ids, types = sequences(LENGTHS, types=0)
        got = TorchRuntime(encoder).run(packed(ids), packed(types), "logits")
        with torch.no_grad():
            last = [model(torch.from_numpy(row)[None]).logits[0, -1] for row in ids]
        np.testing.assert_allclose(got[:, 0], [float(x[7] - x[11]) for x in last], atol=2e-4)


@pytest.mark.parametrize("family", DECODERS)
def test_what_all_sequences_begin_with_is_computed_once(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(tmp_path, family)
    runtime = TorchRuntime(read_checkpoint("tiny", tmp_path, config_of(model)))
    head, (tails, _) = np.arange(2, 42), sequences([9, 9, 3, 1], types=0)
    ids = [np.concatenate((head, tail)) for tail in tails]
    types = [np.zeros_like(row) for row in ids]
    seen: list[int] = []
    true = type(runtime._forward)._embed
    monkeypatch.setattr(type(runtime._forward), "_embed", lambda self, batch: (seen.append(len(batch.ids)), true(self, batch))[1])
    got = runtime.run(packed(ids), packed(types), "logits")
    assert seen == [40, 22]
    np.testing.assert_allclose(got, answers(model, ids, types), atol=1e-4)


def test_a_prefix_leaves_a_token_to_each_and_is_worth_it() -> None:
    a = np.arange(40)
    assert common_prefix(packed([a, a])) == 39
    assert common_prefix(packed([a[:20], a])) == 19
    assert common_prefix(packed([a])) == 0
    assert common_prefix(packed([a[:SHARED], a])) == 0
    assert common_prefix(packed([a[: SHARED + 1], a])) == SHARED
    assert common_prefix(packed([a, a, a + 1])) == 0


def half_precision(encoder):  # type: ignore[no-untyped-def]
    pytest.importorskip("triton", reason="the kernels need triton")
    return TorchRuntime(encoder, device="cuda" if CUDA else "cpu", precision="float16", kernels=True)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "qwen3"])
def test_the_kernels_agree_with_torch(tmp_path: Path, family: str) -> None:
    """float16 by Triton, on a GPU or in the interpreter, against float32 by torch, each within what float16 gives."""
    model = make(tmp_path, family, labels=2)
    encoder = read_checkpoint("tiny", tmp_path, config_of(model))
    ids, types = sequences([70, 20, 20, 3, 1], types=encoder.architecture.types)
    exact = answers(model, ids, types)
    got = half_precision(encoder).run(packed(ids), packed(types), "logits")
    np.testing.assert_allclose(got, exact, atol=0.02 * np.abs(exact).max())


@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_a_recorded_pass_gives_what_a_plain_one_does(tmp_path: Path, family: str) -> None:
    """Without a GPU nothing is recorded: the same pass runs over the same buffers."""
    encoder = read_checkpoint("tiny", tmp_path, config_of(make(tmp_path, family, labels=2)))
    runtime = half_precision(encoder)
    from rerank_engine.runtimes.graphs import Graphs, bucket

    graphs = Graphs(runtime._forward)
    for lengths in ([20, 7, 1], [70, 2]):
        ids, types = (packed(rows) for rows in sequences(lengths, types=encoder.architecture.types))
        plain = runtime._run(ids, types, "logits", None)
        if CUDA:
            got = np.stack([graphs.run(ids, types) for _ in range(2)])
            assert (got[0] == got[1]).all()
            got = got[0]
        else:
            host, device = graphs._buffers(256, 8)
            graphs._fill(host.numpy(), 256, 8, ids, types)
            device.copy_(host)
            with torch.inference_mode():
                got = graphs.forward(device, 256, 8)[: len(ids)].numpy()
        np.testing.assert_allclose(got, plain, atol=2e-3)
    sizes = sorted({bucket(n, 256, 1.25) for n in range(1, 16_385)})
    assert all(size % 256 == 0 for size in sizes) and len(sizes) < 24
    assert all(b <= max(1.25 * a + 256, 2 * 256) for a, b in pairwise(sizes))


def test_what_is_refused(tmp_path: Path) -> None:
    encoder = read_checkpoint("tiny", tmp_path, config_of(make(tmp_path, "bert")))
    if not CUDA:
        with pytest.raises(BackendUnavailable, match="no CUDA device"):
            TorchRuntime(encoder, device="cuda")
    with pytest.raises(BackendUnavailable, match="knows cpu and cuda"):
        TorchRuntime(encoder, device="tpu")
    with pytest.raises(InputError, match="precision"):
        TorchRuntime(encoder, precision="int4")
    with pytest.raises(UnsupportedModelError, match="float32"):
        TorchRuntime(encoder, kernels=True)
    with pytest.raises(ModelError, match="output 'hidden'"):
        TorchRuntime(encoder).run(packed([np.array([1])]), packed([np.array([0])]), "hidden")


def test_padding_that_stands_in_a_text_moves_the_places_behind_it(tmp_path: Path) -> None:
    """As RoBERTa counts: transformers is asked with the same ids, all of them attended."""
    model = make(tmp_path, "roberta")
    encoder = read_checkpoint("tiny", tmp_path, config_of(model))
    rows = [np.array([5, 7, 1, 1, 9, 11]), np.array([1, 4]), np.array([3, 1])]
    exact = []
    for row in rows:
        with torch.no_grad():
            ids = torch.from_numpy(row)[None]
            exact.append(float(model(ids, attention_mask=torch.ones_like(ids)).logits[0, 0]))
    got = TorchRuntime(encoder).run(packed(rows), packed([np.zeros_like(row) for row in rows]), "logits")[:, 0]
    np.testing.assert_allclose(got, exact, atol=1e-4)


def test_what_a_look_up_could_not_hold_is_refused_before(tmp_path: Path) -> None:
    runtime = TorchRuntime(read_checkpoint("tiny", tmp_path, config_of(make(tmp_path, "bert"))))
    for rows, message in (([np.zeros(141, np.int64)], "at most 140"), ([np.array([90])], "token 90"), ([np.zeros(0, np.int64)], "empty")):
        with pytest.raises(ModelError, match=message):
            runtime.run(packed(rows), packed([np.zeros_like(row) for row in rows]), "logits")


def test_the_threads_of_the_process_are_left_as_they_were(tmp_path: Path) -> None:
    runtime = TorchRuntime(read_checkpoint("tiny", tmp_path, config_of(make(tmp_path, "bert"))), threads=1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runtime.run(packed([np.array([3, 4])]), packed([np.array([0, 0])]), "logits")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
