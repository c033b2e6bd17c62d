"""What the files of late-interaction models say, through `rr.load`, and what it refuses."""

from __future__ import annotations

import json
import string

import pytest
from late_models import DIM, HIDDEN, PUNCTUATION, VOCABULARY, write_colbert_ai, write_pylate, write_tensors
from models import write_encoder

import rerank_engine as rr
from rerank_engine.errors import CorruptModelError, InputError, UnsupportedModelError
from rerank_engine.runtimes.late_config import LateConfig


def load(folder, **options):
    return rr.load(folder, device="cpu", threads=1, **options)


def test_pylate(tmp_path):
    model = load(write_pylate(tmp_path))
    assert isinstance(model, rr.ColBERT) and len(model.projections) == 1 and model.dim == DIM
    assert vars_of(model.config) == ("[Q] ", "[D] ", 10, 12, True, False, tuple(PUNCTUATION), False)


def vars_of(config: LateConfig):
    names = ("query_prefix", "document_prefix", "query_length", "document_length", "expand", "attend", "skiplist", "skip_first")
    return tuple(getattr(config, name) for name in names)


def test_pylate_with_what_it_leaves_to_its_defaults(tmp_path):
    told = {"similarity_fn_name": "MaxSim"}
    model = load(write_pylate(tmp_path, files={"config_sentence_transformers.json": told}))
    limit = 32  # of the tiny model, below PyLate's 180
    assert vars_of(model.config) == ("[Q] ", "[D] ", 32, limit, True, False, tuple(string.punctuation), False)


def test_colbert_ai(tmp_path):
    model = load(write_colbert_ai(tmp_path))
    assert isinstance(model, rr.ColBERT) and len(model.projections) == 1 and model.dim == DIM
    assert vars_of(model.config) == ("[unused0]", "[unused1]", 10, 12, True, False, tuple(string.punctuation), True)


def test_colbert_ai_without_its_metadata(tmp_path):
    folder = write_colbert_ai(tmp_path, config={"max_position_embeddings": 512})
    (folder / "artifact.metadata").unlink()
    assert vars_of(load(folder).config) == ("[unused0]", "[unused1]", 32, 220, True, False, tuple(string.punctuation), True)


def test_colbert_ai_with_other_settings(tmp_path):
    model = load(write_colbert_ai(tmp_path, mask_punctuation=False, attend_to_mask_tokens=True, query_maxlen=9, similarity="l2"))
    assert vars_of(model.config) == ("[unused0]", "[unused1]", 9, 12, True, True, (), True)


@pytest.mark.parametrize("meta", [{"similarity": "dot"}, {"interaction": "flipr"}])
def test_colbert_ai_with_another_score(tmp_path, meta):
    with pytest.raises(UnsupportedModelError, match=r"artifact\.metadata: got .*expected 'cosine' and 'colbert'"):
        load(write_colbert_ai(tmp_path, **meta))


def both(folder, told, **meta):
    """A checkpoint of colbert-ai with the files of PyLate beside it, but no Dense module."""
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    files = {"config_sentence_transformers.json": {"similarity_fn_name": "MaxSim", **told}, "modules.json": modules}
    return write_colbert_ai(folder, files=files, **meta)


def test_pylates_files_go_before_those_of_colbert_ai(tmp_path):
    """PyLate reads what its own files lack in artifact.metadata; whether to skip punctuation it does not ask there. See test_late_peers."""
    model = load(both(tmp_path / "a", {"query_length": 7}, attend_to_mask_tokens=True, mask_punctuation=False, dim=9))
    assert vars_of(model.config) == ("[unused0]", "[unused1]", 7, 12, True, True, tuple(string.punctuation), False) and model.dim == DIM
    assert len(model.projections) == 1, "PyLate takes the linear layer of the checkpoint"
    told = {"query_prefix": "[Q] ", "document_length": 8, "attend_to_expansion_tokens": False, "skiplist_words": ["w1"]}
    model = load(both(tmp_path / "b", told, attend_to_mask_tokens=True))
    assert vars_of(model.config) == ("[Q] ", "[unused1]", 10, 8, True, False, ("w1",), False)
    folder = both(tmp_path / "c", {}, attend_to_mask_tokens=True)
    (folder / "artifact.metadata").unlink()
    assert vars_of(load(folder).config) == ("[unused0]", "[unused1]", 32, 32, True, False, tuple(string.punctuation), False)


def test_metadata_of_colbert_ai_beside_a_dense_module_is_not_read(tmp_path):
    folder = write_pylate(tmp_path, files={"artifact.metadata": {"query_token_id": "[unused0]", "attend_to_mask_tokens": True}})
    assert load(folder).config.query_prefix == "[Q] " and not load(folder).config.attend
    told = {"config_sentence_transformers.json": {"similarity_fn_name": "MaxSim"}, "artifact.metadata": {"query_token_id": "[unused0]"}}
    assert load(write_pylate(tmp_path / "b", files=told, config={"architectures": ["HF_ColBERT"]})).config.query_prefix == "[Q] "


@pytest.mark.parametrize("write", [write_pylate, write_colbert_ai])
def test_a_projection_in_the_network(tmp_path, write):
    model = load(write(tmp_path, inside=True, **({"dense": False} if write is write_pylate else {"linear": False})))
    assert model.projections == () and model.dim == DIM


@pytest.mark.parametrize("write", [write_pylate, write_colbert_ai])
def test_a_projection_that_is_not_there(tmp_path, write):
    with pytest.raises(CorruptModelError, match=r"no .*model\.safetensors.*export the projection with the model"):
        load(write(tmp_path, **({"dense": False} if write is write_pylate else {"linear": False})))


def test_a_dimension_that_nothing_makes(tmp_path):
    folder = write_colbert_ai(tmp_path, config={"architectures": ["BertModel"]}, linear=False)
    with pytest.raises(UnsupportedModelError, match=f"gives {HIDDEN} dimensions, and no weights.*expected {DIM}"):
        load(folder)


def test_options_go_before_the_files(tmp_path):
    options = {"query_length": 8, "document_length": 20, "expand": False, "attend": True, "skiplist": ["w1"]}
    model = load(write_pylate(tmp_path), **options, query_prefix="[unused0]", document_prefix="")
    assert vars_of(model.config) == ("[unused0]", "", 8, 20, False, True, ("w1",), False)


@pytest.mark.parametrize(("option", "value"), [("query_length", 33), ("document_length", 33), ("document_length", 2**20)])
def test_lengths_beyond_the_model_are_refused_from_callers_and_come_down_from_files(tmp_path, option, value):
    folder = write_pylate(tmp_path, **{option: 33})
    assert getattr(load(folder).config, option) == 32
    with pytest.raises(InputError, match=option):
        load(folder, **{option: value})
    assert load(folder, max_length=9).config.document_length == 9


@pytest.mark.parametrize(
    "option", [{"expand": 1}, {"attend": None}, {"query_length": 3}, {"document_length": True}, {"skiplist": "ab"}, {"skiplist": [5]}]
)
def test_options_that_are_none(tmp_path, option):
    with pytest.raises(InputError, match=f"late interaction: {next(iter(option))}"):
        load(write_pylate(tmp_path), **option)


@pytest.mark.parametrize("option", ["pooling", "label"])
def test_options_of_another_family(tmp_path, option):
    with pytest.raises(InputError, match=f"a late interaction: options: got {option}; expected query_prefix"):
        load(write_pylate(tmp_path), **{option: "cls"})


WRONG = [{"query_prefix": 5}, {"query_length": "10"}, {"document_length": 0}, {"do_query_expansion": "yes"}]
WRONG += [{"attend_to_expansion_tokens": 1}, {"skiplist_words": 5}, {"skiplist_words": ["a", 5]}, {"skiplist_words": "ab"}]


@pytest.mark.parametrize("setting", WRONG)
def test_settings_of_pylate_that_are_none(tmp_path, setting):
    with pytest.raises(CorruptModelError, match="late interaction"):
        load(write_pylate(tmp_path, **setting))


@pytest.mark.parametrize("meta", [{"query_maxlen": 10.5}, {"doc_maxlen": -1}, {"doc_token_id": 7}, {"dim": "3"}, {"dim": 0}, {"dim": True}])
def test_settings_of_colbert_ai_that_are_none(tmp_path, meta):
    with pytest.raises(CorruptModelError, match=r"late interaction|dim"):
        load(write_colbert_ai(tmp_path, **meta))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_metadata_that_does_not_parse(tmp_path, content):
    folder = write_colbert_ai(tmp_path)
    (folder / "artifact.metadata").write_bytes(content)
    with pytest.raises(CorruptModelError, match=r"artifact\.metadata"):
        load(folder)


@pytest.mark.parametrize("saved_again", [False, True])
def test_the_length_of_what_pylate_encoded_last_is_no_limit(tmp_path, saved_again):
    """sentence-transformers makes it the tokenizer's as well, when it loads such a model, and so it is written when that is saved."""
    files = {"sentence_bert_config.json": {"max_seq_length": 9, "do_lower_case": False}}
    if saved_again:
        files["tokenizer_config.json"] = {"mask_token": "[MASK]", "model_max_length": 9}
    model = load(write_pylate(tmp_path, files=files))
    assert model.tokenizer.max_length == 32 and model.config.document_length == 12


@pytest.mark.parametrize("prefix", ["query_prefix", "document_prefix"])
def test_a_marker_that_the_tokenizer_lacks(tmp_path, prefix):
    with pytest.raises(UnsupportedModelError, match=r"a tokenizer without 'passage: '.*before the markers were added"):
        load(write_pylate(tmp_path, **{prefix: "passage: "}))


def test_a_mask_token_that_the_tokenizer_lacks(tmp_path):
    folder = write_pylate(tmp_path, files={"tokenizer_config.json": {"mask_token": "<mask>"}})
    with pytest.raises(UnsupportedModelError, match="a tokenizer without '<mask>'"):
        load(folder)
    assert load(folder, expand=False).config.expand is False


@pytest.mark.parametrize(
    "special", [{"eos_token": "[SEP]"}, {"mask_token": {"content": "[SEP]"}}, {"mask_token": "[SEP]", "eos_token": "[CLS]"}]
)
def test_what_fills_up_a_query(tmp_path, special):
    assert load(write_pylate(tmp_path, files={"tokenizer_config.json": special})).mask_token == "[SEP]"


def test_a_default_prompt_is_not_left_out_silently(tmp_path):
    folder = write_pylate(tmp_path, prompts={"query": "w1 ", "document": ""}, default_prompt_name="query")
    with pytest.raises(UnsupportedModelError, match="a default prompt, 'query'"):
        load(folder)
    assert load(write_pylate(tmp_path / "b", prompts={"query": "w1 ", "document": ""}, default_prompt_name="document"))


def test_an_embedding_model_stays_one(tmp_path):
    told = {"similarity_fn_name": "cosine", "prompts": {"query": "w1 "}}
    assert isinstance(load(write_encoder(tmp_path, files={"config_sentence_transformers.json": told})), rr.BiEncoder)


def test_a_corrupt_projection(tmp_path):
    folder = write_pylate(tmp_path)
    write_tensors(folder / "1_Dense" / "model.safetensors", {})
    with pytest.raises(CorruptModelError, match=r"no tensor linear\.weight"):
        load(folder)
    (folder / "1_Dense" / "config.json").write_text(json.dumps([1]))
    with pytest.raises(CorruptModelError, match=r"1_Dense.config\.json"):
        load(folder)


def test_words_of_the_skiplist_that_the_tokenizer_lacks(tmp_path):
    """PyLate takes the unknown token for them; colbert-ai the first token of what they are made of."""
    pylate = load(write_pylate(tmp_path / "a", skiplist_words=["w1", "nothing"]))
    assert pylate._skipped.tolist() == sorted([VOCABULARY["[UNK]"], VOCABULARY["w1"]])
    colbert_ai = load(write_colbert_ai(tmp_path / "b"))
    assert {VOCABULARY[mark] for mark in ",.!?()-"} <= set(colbert_ai._skipped.tolist())
