"""One decoder step of T5, mT5 and UMT5 on packed tokens against transformers' forward and generate, and against itself in any batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from t5_models import FAMILIES, SIZE, config_of, first_logits, generated_logits, torch, write_t5

from rerank_engine.errors import BackendUnavailable, CorruptModelError, InputError, ModelError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.runtimes.batching import run_batched
from rerank_engine.runtimes.t5 import read_t5, t5_architecture
from rerank_engine.runtimes.t5_torch import T5Torch, relative_buckets
from rerank_engine.runtimes.tokenize import Tokens

LENGTHS = [40, 40, 33, 17, 17, 17, 5, 2, 1, 300]
YES, NO = 3, 4


def sequences(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, SIZE, n) for n in lengths]


def packed(rows: list[np.ndarray]) -> tuple[Packed, Packed]:
    return Packed.from_rows(rows, np.int64), Packed.from_rows([np.zeros_like(row) for row in rows], np.int64)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp(request.param)
    model = write_t5(folder, request.param)
    return folder, model, T5Torch(read_t5("tiny", folder, config_of(folder), (YES, NO)))


def test_the_answer_is_that_of_transformers_forward_and_generate(loaded) -> None:  # type: ignore[no-untyped-def]
    _, model, runtime = loaded
    rows = sequences(LENGTHS)
    got = runtime.run(*packed(rows), "logits")
    assert got.dtype == np.float32 and got.shape == (len(rows), 1)
    for wanted in (first_logits(model, rows), generated_logits(model, rows)):
        np.testing.assert_allclose(got[:, 0], wanted[:, YES] - wanted[:, NO], atol=1e-4)
        assert np.ptp(wanted[:, YES] - wanted[:, NO]) > 0.1, "a test that could not fail"


def test_one_answer_is_its_logit(loaded) -> None:  # type: ignore[no-untyped-def]
    folder, model, _ = loaded
    rows, ranking = sequences([9, 9, 30, 1], seed=1), SIZE - 6
    got = T5Torch(read_t5("tiny", folder, config_of(folder), (ranking,))).run(*packed(rows), "logits")
    np.testing.assert_allclose(got[:, 0], first_logits(model, rows)[:, ranking], atol=1e-4)


def test_what_transformers_reads_back_from_the_files_is_the_same_network(loaded) -> None:  # type: ignore[no-untyped-def]
    """Tied or not, scaled or not: by the files, as transformers 5 understands them."""
    folder, model, _ = loaded
    read, rows = type(model).from_pretrained(folder).eval(), sequences([12, 4])
    np.testing.assert_allclose(first_logits(read, rows), first_logits(model, rows), atol=1e-5)


def test_a_score_does_not_depend_on_its_neighbours(loaded) -> None:  # type: ignore[no-untyped-def]
    _, _, runtime = loaded
    rows = sequences(LENGTHS, seed=2)
    alone = np.concatenate([runtime.run(*packed([row]), "logits") for row in rows])
    order = np.random.default_rng(0).permutation(len(rows))
    together = runtime.run(*packed(rows), "logits")
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(runtime.run(*packed([rows[i] for i in order]), "logits"), alone[order], atol=1e-5)


def test_batches_are_those_of_any_runtime(loaded) -> None:  # type: ignore[no-untyped-def]
    """Permuting what is given permutes what comes, to the bit; equal sequences are run once."""
    _, model, runtime = loaded
    rows = sequences([7, 30, 7, 100, 3, 55], seed=3)
    rows += rows[:2]
    order = np.random.default_rng(1).permutation(len(rows))
    tokens = [Tokens(*packed(own), np.zeros(len(own), np.int32)) for own in (rows, [rows[i] for i in order])]
    straight, moved = (run_batched(runtime, own, "logits", budget=64) for own in tokens)
    assert straight[order].tobytes() == moved.tobytes() and straight[:2].tobytes() == straight[-2:].tobytes()
    wanted = first_logits(model, rows)
    np.testing.assert_allclose(straight[:, 0], wanted[:, YES] - wanted[:, NO], atol=1e-4)


@pytest.mark.parametrize("buckets, distance", [(32, 128), (16, 20), (4, 2), (64, 1000)])
def test_buckets_are_those_of_transformers(buckets: int, distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    apart = torch.arange(-1500, 1501)
    wanted = T5Attention._relative_position_bucket(apart, True, buckets, distance)
    assert torch.equal(relative_buckets(1501, buckets, distance), wanted)
    assert torch.equal(relative_buckets(1, buckets, distance), torch.tensor([0]))


def test_in_bfloat16_the_answer_is_near(loaded) -> None:  # type: ignore[no-untyped-def]
    folder, _, runtime = loaded
    rows = sequences([60, 20, 20, 1], seed=4)
    half = T5Torch(read_t5("tiny", folder, config_of(folder), (YES, NO)), precision="bfloat16", fingerprint="f")
    exact = runtime.run(*packed(rows), "logits")
    np.testing.assert_allclose(half.run(*packed(rows), "logits"), exact, atol=0.1 * max(1.0, np.abs(exact).max()))
    assert half.fingerprint == "f/bfloat16" and "bfloat16" in repr(half)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision, near", [("float32", 1e-3), (None, 0.1)])
def test_on_cuda_the_answer_is_that_of_a_cpu(loaded, precision: str | None, near: float) -> None:  # type: ignore[no-untyped-def]
    folder, _, runtime = loaded
    rows = sequences(LENGTHS, seed=5)
    there = T5Torch(read_t5("tiny", folder, config_of(folder), (YES, NO)), device="cuda", precision=precision)
    exact = runtime.run(*packed(rows), "logits")
    np.testing.assert_allclose(there.run(*packed(rows), "logits"), exact, atol=near * max(1.0, np.abs(exact).max()))


def test_names_that_checkpoints_have_beside_shared(tmp_path: Path) -> None:
    """Older ones hold the embedding twice more, or under the encoder's name alone."""
    from safetensors.numpy import load_file, save_file

    write_t5(tmp_path)
    tensors, config = load_file(tmp_path / "model.safetensors"), config_of(tmp_path)
    rows = sequences([8, 3])
    wanted = T5Torch(read_t5("tiny", tmp_path, config, (YES, NO))).run(*packed(rows), "logits")
    word = tensors.pop("shared.weight")
    copies = {f"{side}.embed_tokens.weight": word for side in ("encoder", "decoder")}
    for more in (copies, {"encoder.embed_tokens.weight": word}, {"shared.weight": word, **copies, "lm_head.weight": word}):
        save_file({**tensors, **more}, tmp_path / "model.safetensors")
        got = T5Torch(read_t5("tiny", tmp_path, config, (YES, NO))).run(*packed(rows), "logits")
        assert got.tobytes() == wanted.tobytes()


REFUSED = {
    "a decoder alone": ({"is_decoder": True}, UnsupportedModelError, "is_decoder"),
    "an encoder alone": ({"is_encoder_decoder": False}, UnsupportedModelError, "is_encoder_decoder"),
    "another feed-forward": ({"feed_forward_proj": "gated-tanh"}, UnsupportedModelError, "feed_forward_proj.*gated-gelu"),
    "another family": ({"architectures": ["BartForConditionalGeneration"]}, UnsupportedModelError, "T5ForConditionalGeneration"),
    "no width": ({"d_model": None}, CorruptModelError, "d_model"),
    "layers that are none": ({"num_layers": "3"}, CorruptModelError, "num_layers"),
    "no layer": ({"num_layers": 0}, CorruptModelError, "num_layers.*at least 1"),
    "more layers than anyone has": ({"num_decoder_layers": 1 << 20}, CorruptModelError, "num_decoder_layers.*at most"),
    "odd buckets": ({"relative_attention_num_buckets": 30}, CorruptModelError, "30 buckets"),
    "buckets without distance": ({"relative_attention_max_distance": 8}, CorruptModelError, "distance of 8"),
    "a start beyond the vocabulary": ({"decoder_start_token_id": SIZE}, CorruptModelError, "decoder_start_token_id"),
    "a flag that is none": ({"scale_decoder_outputs": "yes"}, CorruptModelError, "scale_decoder_outputs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_configs_that_are_not_described(tmp_path: Path, case: str) -> None:
    changes, error, message = REFUSED[case]
    write_t5(tmp_path)
    with pytest.raises(error, match=message):
        t5_architecture("tiny", config_of(tmp_path, **changes))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    write_t5(tmp_path)
    tensors, config = load_file(tmp_path / "model.safetensors"), config_of(tmp_path)
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for name in ("shared.weight", bias, "decoder.block.2.layer.1.EncDecAttention.k.weight", "decoder.final_layer_norm.weight"):
        for broken, message in (({}, f"no tensor '{name}'"), ({name: tensors[name][:-1].copy()}, f"tensor '{name}': got shape")):
            save_file({**{key: value for key, value in tensors.items() if key != name}, **broken}, tmp_path / "model.safetensors")
            with pytest.raises(CorruptModelError, match=message):
                read_t5("tiny", tmp_path, config, (YES,))
    save_file({**tensors, bias: tensors[bias] * np.nan}, tmp_path / "model.safetensors")
    with pytest.raises(CorruptModelError, match="NaN"):
        read_t5("tiny", tmp_path, config, (YES,))


def test_what_the_runtime_refuses(loaded) -> None:  # type: ignore[no-untyped-def]
    folder, _, runtime = loaded
    model = read_t5("tiny", folder, config_of(folder), (YES,))
    with pytest.raises(BackendUnavailable, match="knows cpu and cuda"):
        T5Torch(model, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match="no CUDA device"):
            T5Torch(model, device="cuda")
    with pytest.raises(InputError, match="precision"):
        T5Torch(model, precision="int4")
    with pytest.raises(UnsupportedModelError, match="bfloat16"):
        T5Torch(model, precision="float16")
    ids, types = packed([np.array([1])])
    with pytest.raises(ModelError, match="output 'weights'"):
        runtime.run(ids, types, "weights")
    with pytest.raises(ModelError, match="of all tokens"):
        runtime.run(ids, types, "logits", np.array([1]))
    for rows, message in (([np.array([SIZE])], f"token {SIZE}"), ([np.zeros(0, np.int64)], "empty")):
        with pytest.raises(ModelError, match=message):
            runtime.run(*packed(rows), "logits")


def test_the_config_of_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """Before transformers 5 nothing said whether the output is scaled but that the embeddings are tied."""
    write_t5(tmp_path)
    for changes, scaled in (({"scale_decoder_outputs": None}, True), ({"tie_word_embeddings": False}, False)):
        assert t5_architecture("tiny", config_of(tmp_path, **changes)).scaled is scaled
    assert not t5_architecture(
        "tiny", {**json.loads((tmp_path / "config.json").read_text()), "architectures": ["MT5ForConditionalGeneration"]}
    ).scaled
