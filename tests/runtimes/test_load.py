"""`rr.load` of local folders: what it reads from them and what it refuses. test_files.py has names, test_onnx.py devices."""

from __future__ import annotations

import json

import pytest
from models import DIM, PAD, VOCABULARY, cross, encoder, logits_of, states_of, words, wrap, write_encoder, write_model
from onnx import TensorProto, helper

import rerank_engine as rr
from rerank_engine.errors import (
    CorruptModelError,
    InputError,
    ModelError,
    QueryTooLongError,
    UnknownModelError,
    UnsafeModelError,
    UnsupportedModelError,
)
from rerank_engine.runtimes.load import ENCODERS, FAMILIES


@pytest.mark.parametrize("name", ["bert-reranker", "cross-encoder", "ms-marco-MiniLM-L-12-v2-colbert-t5"])
def test_the_config_decides_and_never_the_name(tmp_path, name):
    assert isinstance(rr.load(write_encoder(tmp_path / name), device="cpu"), rr.BiEncoder)


@pytest.mark.parametrize("name", ["bert-embedding", "colbert", "bi-encoder"])
def test_a_classifier_is_a_cross_encoder_whatever_its_name(tmp_path, name):
    assert isinstance(rr.load(write_model(tmp_path / name, cross()), device="cpu"), rr.CrossEncoder)


@pytest.mark.parametrize("base", ENCODERS)
def test_every_listed_architecture(tmp_path, base):
    assert isinstance(rr.load(write_model(tmp_path / "c", cross(), f"{base}ForSequenceClassification"), device="cpu"), rr.CrossEncoder)
    assert isinstance(rr.load(write_encoder(tmp_path / "b", config={"architectures": [f"{base}Model"]}), device="cpu"), rr.BiEncoder)


@pytest.mark.parametrize("architectures", [["Nothing"], [], None, "BertModel", [None, ["BertModel"]], ["bertmodel"]])
def test_an_unknown_architecture_lists_the_known(tmp_path, architectures):
    folder = write_model(tmp_path, cross(), config={"architectures": architectures})
    with pytest.raises(UnsupportedModelError) as caught:
        rr.load(folder, device="cpu")
    assert all(known in str(caught.value) for known in FAMILIES)


@pytest.mark.parametrize("base", ["T5", "MT5", "UMT5"])
def test_a_seq2seq_model_has_to_be_asked_as_it_was_trained(tmp_path, base):
    with pytest.raises(UnsupportedModelError, match=r"T5ForConditionalGeneration, which writes text.*prompt=.*monot5, rankt5, duot5"):
        folder = write_model(tmp_path, cross(), f"{base}ForConditionalGeneration", name="encoder_model.onnx")
        (folder / "decoder_model.onnx").write_bytes(b"")
        rr.load(folder, device="cpu")


@pytest.mark.parametrize("architecture", ["T5EncoderModel", "T5ForSequenceClassification"])
def test_an_encoder_without_its_decoder_says_so(tmp_path, architecture):
    with pytest.raises(UnsupportedModelError, match=rf"{architecture}, which this version does not run.*T5 with its decoder"):
        rr.load(write_model(tmp_path, cross(), architecture), device="cpu")


def test_a_decoder_has_to_be_asked_as_it_was_trained(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"Qwen3ForCausalLM, which writes text.*prompt=.*qwen3-reranker"):
        rr.load(write_model(tmp_path, cross(), "Qwen3ForCausalLM"), device="cpu")


def test_a_missing_config(tmp_path):
    (write_model(tmp_path, cross()) / "config.json").unlink()
    with pytest.raises(UnknownModelError, match=r"no config\.json.*decides what the model is"):
        rr.load(tmp_path, device="cpu")


def test_a_missing_tokenizer(tmp_path):
    (write_model(tmp_path, cross()) / "tokenizer.json").unlink()
    with pytest.raises(CorruptModelError, match=r"no tokenizer\.json.*save_pretrained"):
        rr.load(tmp_path, device="cpu")


def test_a_missing_network(tmp_path):
    write_model(tmp_path, None)
    with pytest.raises(UnknownModelError, match=r"no model\.onnx or onnx/model\.onnx.*optimum-cli export onnx"):
        rr.load(tmp_path, device="cpu")


def test_several_networks(tmp_path):
    write_model(tmp_path, cross(), name="onnx/a.onnx")
    write_model(tmp_path, cross(3), name="onnx/b.onnx")
    with pytest.raises(UnknownModelError, match=r"onnx/a\.onnx, onnx/b\.onnx: name one with file="):
        rr.load(tmp_path, device="cpu")
    assert rr.load(tmp_path, device="cpu", file="onnx/b.onnx", label=2).predict([("w1", "w2")]).values == logits_of("w1", "w2")[2]
    assert rr.load(tmp_path, device="cpu", file="onnx/a.onnx").predict([("w1", "w2")]).values == logits_of("w1", "w2")[0]
    with pytest.raises(UnknownModelError, match=r"no onnx/c\.onnx"):
        rr.load(tmp_path, device="cpu", file="onnx/c.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "onnx/model.onnx"])
def test_the_usual_places(tmp_path, name):
    assert rr.load(write_model(tmp_path, cross(), name=name), device="cpu").predict([("w1", "w2")]).values == logits_of("w1", "w2")[0]


@pytest.mark.parametrize("file", ["../x.onnx", "sub/../../x.onnx", "/x.onnx"])
def test_a_file_outside_the_folder_is_refused(tmp_path, file):
    write_model(tmp_path / "model", cross())
    (tmp_path / "x.onnx").write_bytes(cross().SerializeToString())
    (tmp_path / "model" / "sub").mkdir()
    with pytest.raises(UnsafeModelError, match="below the model's folder"):
        rr.load(tmp_path / "model", device="cpu", file=file)


@pytest.mark.parametrize("value", [33, 7, 0, -1, True, 16.0, "16"])
def test_max_length_outside_the_models_limit(tmp_path, value):
    with pytest.raises(InputError, match=r"max_length.*from 8 to 32"):
        rr.load(write_model(tmp_path, cross()), device="cpu", max_length=value)


@pytest.mark.parametrize(
    ("config", "files", "limit"),
    [
        ({}, {}, 32),
        ({"max_position_embeddings": None}, {}, 512),
        ({"model_type": "distilbert"}, {}, 32),
        *(({"model_type": kind}, {}, 32 - (PAD + 1)) for kind in ("roberta", "xlm-roberta", "camembert", "mpnet")),
        ({"model_type": "roberta", "pad_token_id": None}, {}, 30),
        ({"model_type": "roberta", "pad_token_id": 5}, {}, 26),
        ({}, {"tokenizer_config.json": {"model_max_length": 20}}, 20),
        ({}, {"tokenizer_config.json": {"model_max_length": 100}}, 32),
        ({}, {"tokenizer_config.json": {"model_max_length": 1e30}}, 32),
        ({}, {"sentence_bert_config.json": {"max_seq_length": 12}, "tokenizer_config.json": {"model_max_length": 20}}, 12),
        ({}, {"sentence_bert_config.json": {"max_seq_length": None}}, 32),
    ],
)
def test_the_longest_input(tmp_path, config, files, limit):
    model = rr.load(write_model(tmp_path, cross(), config=config, files=files), device="cpu")
    assert model.tokenizer.max_length == limit
    query, document = words(0, 2), words(10, limit)
    scores = model.predict([(query, document)])
    assert scores.columns["truncated_tokens"].tolist() == [5]
    assert scores.values == logits_of(query, words(10, limit - 5))[0]
    with pytest.raises(QueryTooLongError):
        model.predict([(words(0, limit - 3), "w1")])


def test_max_length_is_obeyed(tmp_path):
    model = rr.load(write_model(tmp_path, cross()), device="cpu", max_length=8)
    assert model.predict([("w1", words(0, 30))]).values == logits_of("w1", words(0, 4))[0]


def test_a_tokenizer_with_more_tokens_than_embeddings(tmp_path):
    folder = write_model(tmp_path, cross(), config={"vocab_size": len(VOCABULARY) - 1})
    with pytest.raises(CorruptModelError, match=f"{len(VOCABULARY)} tokens for {len(VOCABULARY) - 1} embeddings"):
        rr.load(folder, device="cpu")
    rr.load(write_model(tmp_path, cross(), config={"vocab_size": len(VOCABULARY) + 50}), device="cpu")  # padded tables are common


def test_a_token_beyond_the_embeddings_counts_even_if_the_tokens_are_few(tmp_path):
    folder = write_model(tmp_path, cross())
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["w0"] = 4000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CorruptModelError, match="4001 tokens"):
        rr.load(folder, device="cpu")


def test_a_config_that_promises_more_embeddings_than_there_are(tmp_path):
    folder = write_model(tmp_path, cross(), config={"vocab_size": 5000})
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["w0"] = 4000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"failed on 1 inputs of up to 5 tokens.*onnxruntime"):
        rr.load(folder, device="cpu").predict([("w0", "w1")])


JSON_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"]
JSON_FILES += ["sentence_bert_config.json", "tokenizer_config.json"]


@pytest.mark.parametrize("file", JSON_FILES)
@pytest.mark.parametrize("content", [b"", b"{", b'{"a": ', b"\xff", b"5", b'"text"', b"[" * 100_000, b"null"])
def test_corrupt_json(tmp_path, file, content):
    folder = write_encoder(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(CorruptModelError) as caught:
        rr.load(folder, device="cpu")
    assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("file", JSON_FILES)
def test_json_of_the_wrong_kind(tmp_path, file):
    folder = write_encoder(tmp_path)
    (folder / file).write_text('{"type": 5}' if file == "modules.json" else "[1]")
    with pytest.raises(CorruptModelError, match=r"expected a (dict|list)"):
        rr.load(folder, device="cpu")


@pytest.mark.parametrize("key", ["vocab_size", "pad_token_id", "max_position_embeddings"])
@pytest.mark.parametrize("value", ["512", [0], 1.5, True, -1, 2**31])
def test_a_number_of_the_config_that_is_none(tmp_path, key, value):
    with pytest.raises(CorruptModelError, match=f"{key} in its config.json"):
        rr.load(write_model(tmp_path, cross(), config={key: value}), device="cpu")


def test_a_limit_too_small_for_any_pair(tmp_path):
    with pytest.raises(CorruptModelError, match="a limit of 7 tokens"):
        rr.load(write_model(tmp_path, cross(), config={"max_position_embeddings": 7}), device="cpu")


@pytest.mark.parametrize("prompts", [["query: "], {"query": 5}, "query: "])
def test_prompts_of_the_wrong_kind(tmp_path, prompts):
    with pytest.raises(CorruptModelError, match="prompts"):
        rr.load(write_encoder(tmp_path, files={"config_sentence_transformers.json": {"prompts": prompts}}), device="cpu")


def test_embedding_files_are_read_and_arguments_go_before_them(tmp_path):
    files = {"config_sentence_transformers.json": {"prompts": {"query": "w7 ", "passage": "w8 ", "other": None}}}
    folder = write_encoder(tmp_path, "cls", normalize=True, files=files)
    told = rr.load(folder, device="cpu")
    assert (told.pooling, told.normalize, told.query_prompt, told.document_prompt) == ("cls", True, "w7 ", "w8 ")
    asked = rr.load(folder, device="cpu", pooling="mean", normalize=False, query_prompt="", document_prompt="w9 ")
    assert (asked.pooling, asked.normalize, asked.query_prompt, asked.document_prompt) == ("mean", False, "", "w9 ")


def test_a_further_layer_is_not_left_out_silently(tmp_path):
    """sentence-transformers would run the module `Dense` behind the pooling: vectors without it are of another space."""
    types = ["sentence_transformers.models." + kind for kind in ("Transformer", "Pooling", "Dense", "Normalize")]
    files = {"modules.json": [{"type": kind} for kind in types]}
    with pytest.raises(UnsupportedModelError, match=r"modules\.json: got Dense; expected.*sentence_embedding"):
        rr.load(write_encoder(tmp_path / "a", files=files), device="cpu")
    rr.load(write_encoder(tmp_path / "b", model=encoder(output="sentence_embedding"), files=files), device="cpu")


@pytest.mark.parametrize("options", [{"types": False}, {"int32": True}, {"mask": False}, {"mask": False, "types": False, "int32": True}])
def test_inputs_as_the_network_has_them(tmp_path, options):
    """mask=False tells padding by the token pad_token_id, so a batch padded with another one would score wrong."""
    model = rr.load(write_model(tmp_path, cross(**options)), device="cpu")
    pairs = [("w1", words(5, n)) for n in (20, 3, 2, 1)]
    want = [logits_of(*pair, types=options.get("types", True))[0] for pair in pairs]
    assert model.predict(pairs).values.tolist() == want


def test_an_encoder_without_segments(tmp_path):
    model = rr.load(write_encoder(tmp_path, model=encoder(types=False)), device="cpu")
    assert model.encode(["w1 w2"]).tolist() == [(states_of("w1 w2").sum(0) / 4).tolist()]
    assert model.encode(["w1 w2"]).shape == (1, DIM)


def test_an_input_that_nobody_knows(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"got pixel_values tensor\(int64\); expected input_ids, attention_mask"):
        rr.load(write_model(tmp_path, cross(extra=True)), device="cpu")


@pytest.mark.parametrize("old", ["logits", "input_ids"])
def test_a_missing_output_or_input(tmp_path, old):
    model = cross()
    for value in (*model.graph.input, *model.graph.output):
        value.name = value.name.replace(old, "renamed")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name != old else "renamed" for name in names]
    with pytest.raises(UnsupportedModelError, match="expected logits.*text-classification" if old == "logits" else "expected input_ids"):
        rr.load(write_model(tmp_path, model), device="cpu")


def test_a_network_without_tokens(tmp_path):
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["mask"], ["logits"], keepdims=1),
    ]
    inputs = [helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["n", "tokens"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1])]
    with pytest.raises(UnsupportedModelError, match="inputs: got attention_mask; expected input_ids"):
        rr.load(write_model(tmp_path, wrap(helper.make_graph(nodes, "tiny", inputs, outputs))), device="cpu")


@pytest.mark.parametrize("option", ["pooling", "lable"])
def test_options_of_another_family_are_refused(tmp_path, option):
    with pytest.raises(InputError, match=f"options: got {option}; expected label"):
        rr.load(write_model(tmp_path, cross()), **{option: "cls"})
