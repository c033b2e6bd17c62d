"""Reading checkpoints: what is refused and how it is said, shards, and GTE, which transformers does not hold, against its own formulas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from reference_models import BASE, make, torch

from rerank_engine.errors import CorruptModelError, UnsupportedModelError
from rerank_engine.packed import Packed
from rerank_engine.runtimes.checkpoint import read_checkpoint
from rerank_engine.runtimes.families import FAMILIES, readable
from rerank_engine.runtimes.torch import TorchRuntime

safetensors = pytest.importorskip("safetensors.numpy", reason="checkpoints are written by the package safetensors")


def told(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def rewrite(folder: Path, **changes: np.ndarray | None) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.load_file(path)
    for name, array in changes.items():
        tensors.pop(name)
        if array is not None:
            tensors[name] = array
    safetensors.save_file(tensors, path)


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    model = make(tmp_path / "one", "bert")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = (read_checkpoint("m", folder, told(folder)) for folder in (tmp_path / "one", tmp_path / "many"))
    assert one.architecture == many.architecture and one.weights.keys() == many.weights.keys()
    assert all((one.weights[name] == many.weights[name]).all() for name in one.weights)
    assert one.parameters == sum(p.numel() for p in model.parameters())
    (tmp_path / "many" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CorruptModelError, match="weight_map"):
        read_checkpoint("m", tmp_path / "many", told(tmp_path / "many"))


def test_distilbert_without_a_head(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the reference implementation is transformers")
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    torch.manual_seed(3)
    model = transformers.DistilBertModel(transformers.DistilBertConfig(vocab_size=90, **sizes)).eval()
    model.save_pretrained(tmp_path)
    runtime = TorchRuntime(read_checkpoint("m", tmp_path, told(tmp_path)), threads=1)
    rows = [np.arange(2, 2 + n) for n in (1, 5, 17)]
    got = runtime.run(Packed.from_rows(rows), Packed.from_rows([np.zeros_like(row) for row in rows]), "last_hidden_state")
    for i, row in enumerate(rows):
        with torch.no_grad():
            want = model(torch.from_numpy(row)[None]).last_hidden_state[0].numpy()
        np.testing.assert_allclose(got[i, : len(row)], want, atol=1e-5)


def test_a_bias_that_a_family_has_is_not_left_out(tmp_path: Path) -> None:
    for family, name in (
        ("bert", "classifier.bias"),
        ("qwen2", "model.layers.0.self_attn.q_proj.bias"),
        ("roberta", "classifier.dense.bias"),
    ):
        make(tmp_path, family)
        rewrite(tmp_path, **{name: None})
        with pytest.raises(CorruptModelError, match=f"no tensor '{name}'"):
            read_checkpoint("m", tmp_path, told(tmp_path))
    with pytest.raises(CorruptModelError, match="at most 1024"):
        read_checkpoint("m", tmp_path, told(tmp_path) | {"num_hidden_layers": 10**6})


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    make(tmp_path, "bert")
    name = "bert.encoder.layer.1.attention.self.key.weight"
    rewrite(tmp_path, **{name: None})
    with pytest.raises(CorruptModelError, match=f"no tensor '{name}'"):
        read_checkpoint("m", tmp_path, told(tmp_path))
    make(tmp_path, "bert")
    rewrite(tmp_path, **{"classifier.weight": np.zeros((1, 63), np.float32)})
    with pytest.raises(CorruptModelError, match=r"'head.classifier.weight': got shape \[1, 63\]; expected \[1, 64\]"):
        read_checkpoint("m", tmp_path, told(tmp_path))
    make(tmp_path, "bert")
    with pytest.raises(CorruptModelError, match=r"'word': got shape \[90, 64\]; expected \[91, 64\]"):
        read_checkpoint("m", tmp_path, told(tmp_path) | {"vocab_size": 91})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CorruptModelError, match=r"no model\.safetensors"):
        read_checkpoint("m", tmp_path, told(tmp_path))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("bert", {"position_embedding_type": "relative_key"}),
        ("bert", {"is_decoder": True}),
        ("bert", {"hidden_act": "mish"}),
        ("bert", {"architectures": ["T5Model"]}),
        ("bert", {"architectures": None}),
        ("qwen3", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
        ("qwen3", {"use_sliding_window": True}),
        ("modernbert", {"classifier_pooling": "max"}),
    ],
)
def test_what_the_description_does_not_hold_is_refused(tmp_path: Path, family: str, change: dict) -> None:
    make(tmp_path, family)
    with pytest.raises(UnsupportedModelError):
        read_checkpoint("m", tmp_path, told(tmp_path) | change)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "64"}, {"hidden_size": None}, {"layer_norm_eps": -1}, {"num_hidden_layers": True}, {"vocab_size": 2**40}]
)
def test_a_setting_of_the_wrong_kind_is_named(tmp_path: Path, change: dict) -> None:
    make(tmp_path, "bert")
    with pytest.raises(CorruptModelError, match=next(iter(change))):
        read_checkpoint("m", tmp_path, told(tmp_path) | change)


def test_every_family_is_found_by_its_architecture_alone() -> None:
    assert all(readable({"architectures": ["Other", name]}) == name for name in FAMILIES)
    assert readable({"architectures": "BertModel"}) is None and readable({}) is None


GTE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": BASE["vocab_size"]} | {
    "max_position_embeddings": 64, "type_vocab_size": 1, "layer_norm_eps": 1e-12, "rope_theta": 500.0, "num_labels": 1,
    "rope_scaling": {"type": "ntk", "factor": 8.0}, "model_type": "new", "architectures": ["NewForSequenceClassification"],
}  # fmt: skip


def gte_tensors() -> dict[str, np.ndarray]:
    rng, h, i = np.random.default_rng(3), GTE["hidden_size"], GTE["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"embeddings.word_embeddings.weight": (GTE["vocab_size"], h)}
    shapes |= {"embeddings.token_type_embeddings.weight": (1, h), "embeddings.LayerNorm.weight": (h,), "embeddings.LayerNorm.bias": (h,)}
    for layer in (f"encoder.layer.{n}." for n in range(GTE["num_hidden_layers"])):
        shapes |= {f"{layer}attention.qkv_proj.weight": (3 * h, h), f"{layer}attention.qkv_proj.bias": (3 * h,)}
        shapes |= {f"{layer}attention.o_proj.weight": (h, h), f"{layer}attention.o_proj.bias": (h,)}
        shapes |= {
            f"{layer}mlp.up_gate_proj.weight": (2 * i, h),
            f"{layer}mlp.down_proj.weight": (h, i),
            f"{layer}mlp.down_proj.bias": (h,),
        }
        shapes |= {f"{layer}{norm}.{kind}": (h,) for norm in ("attn_ln", "mlp_ln") for kind in ("weight", "bias")}
    shapes |= {"pooler.dense.weight": (h, h), "pooler.dense.bias": (h,)}
    tensors = {f"new.{name}": rng.standard_normal(shape).astype(np.float32) / max(shape[-1], 1) ** 0.5 for name, shape in shapes.items()}
    return tensors | {"classifier.weight": rng.standard_normal((1, h)).astype(np.float32), "classifier.bias": np.ones(1, np.float32)}


def gte_logit(w: dict[str, np.ndarray], ids: np.ndarray) -> float:
    """As its authors' modeling file computes it: the gate is the second half; angles of a base theta * 8, divided by 8^(2 / head_dim)."""
    t = {name.removeprefix("new."): torch.from_numpy(array).double() for name, array in w.items()}
    n, h, heads = len(ids), GTE["hidden_size"], GTE["num_attention_heads"]
    d = h // heads

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (h,), t[f"{name}.weight"], t[f"{name}.bias"], 1e-12)

    frequencies = (500.0 * 8) ** (-torch.arange(0, d, 2).double() / d) / 8 ** (2 / d)
    angles = torch.outer(torch.arange(n).double(), frequencies)
    cos, sin = torch.cat((angles, angles), 1).cos(), torch.cat((angles, angles), 1).sin()

    def turned(x: torch.Tensor) -> torch.Tensor:
        low, high = x[..., : d // 2], x[..., d // 2 :]
        return x * cos + torch.cat((-high, low), -1) * sin

    x = norm(
        t["embeddings.word_embeddings.weight"][torch.from_numpy(ids)] + t["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm",
    )
    for i in range(GTE["num_hidden_layers"]):
        layer = f"encoder.layer.{i}."
        q, k, v = (
            (x @ t[f"{layer}attention.qkv_proj.weight"].T + t[f"{layer}attention.qkv_proj.bias"]).view(n, 3, heads, d).permute(1, 2, 0, 3)
        )
        weights = torch.softmax(turned(q) @ turned(k).mT / d**0.5, -1)
        mixed = (weights @ v).transpose(0, 1).reshape(n, h)
        x = norm(x + mixed @ t[f"{layer}attention.o_proj.weight"].T + t[f"{layer}attention.o_proj.bias"], f"{layer}attn_ln")
        up, gate = (x @ t[f"{layer}mlp.up_gate_proj.weight"].T).chunk(2, -1)
        inner = torch.nn.functional.gelu(gate) * up
        x = norm(x + inner @ t[f"{layer}mlp.down_proj.weight"].T + t[f"{layer}mlp.down_proj.bias"], f"{layer}mlp_ln")
    pooled = torch.tanh(t["pooler.dense.weight"] @ x[0] + t["pooler.dense.bias"])
    return float(t["classifier.weight"][0] @ pooled + t["classifier.bias"][0])


def test_gte_by_its_formulas(tmp_path: Path) -> None:
    tensors = gte_tensors()
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    runtime = TorchRuntime(read_checkpoint("gte", tmp_path, GTE))
    rows = [np.random.default_rng(n).integers(2, GTE["vocab_size"], n) for n in (30, 7, 1)]
    packed = Packed.from_rows(rows, np.int64)
    got = runtime.run(packed, Packed(np.zeros_like(packed.values), packed.offsets), "logits")[:, 0]
    np.testing.assert_allclose(got, [gte_logit(tensors, row) for row in rows], atol=1e-4)
    with pytest.raises(UnsupportedModelError, match="mixed_b"):
        read_checkpoint("gte", tmp_path, GTE | {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.5}})
