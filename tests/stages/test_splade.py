"""The sparse encoder and its stage: what is pruned, cut, refused and explained; and the real model, where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models import CLS, SEP, VOCABULARY, word_ids, words
from sparse_models import LONGEST, Table, logits_of, sparse_encoder

import rerank_engine as rr
from rerank_engine.errors import InputError, MissingDependency, NonFiniteError, QueryTooLongError, UnknownIdError, UnsupportedModelError
from rerank_engine.indexes.impacts import ImpactIndex
from rerank_engine.runtimes.files import resolve
from rerank_engine.stages.splade import SPLADE, SparseEncoder

TEXTS = ["w1 w2 w3", "w4", "", "w5 w5 w1 huh", words(7, LONGEST - 2), words(9, LONGEST + 3), "w59 w4 w2"]
REAL = "splade-tiny"


@pytest.fixture
def encoder(tmp_path: Path) -> SparseEncoder:
    return sparse_encoder(tmp_path)


def weights_of(text: str, seed: int = 0) -> np.ndarray:
    """float32 [WIDTH]"""
    return Table(seed).table[[CLS, *word_ids(text)[: LONGEST - 2], SEP]].max(0)


@pytest.fixture
def stage(encoder: SparseEncoder) -> SPLADE:
    return SPLADE(ImpactIndex.build(rr.Corpus.from_texts(TEXTS), encoder, scale=8), encoder, k=5)


def test_encode_gives_the_weights_above_zero(encoder: SparseEncoder) -> None:
    found, dropped = encoder.encode_counted(TEXTS)
    assert dropped.tolist() == [0, 0, 0, 0, 0, 5, 0] and encoder.encode([]) == []
    for text, (ids, weights) in zip(TEXTS, found, strict=True):
        want = weights_of(text)
        assert ids.dtype == np.int32 and weights.dtype == np.float32
        assert ids.tolist() == np.flatnonzero(want).tolist() and weights.tolist() == want[ids].tolist()
    seen: list[tuple[int, int]] = []
    encoder.encode(TEXTS, False, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (7, 7)


def test_pruning(encoder: SparseEncoder) -> None:
    [(ids, weights)] = encoder.encode(["w1 w2 w3"])
    [(few, heavy)] = encoder.encode(["w1 w2 w3"], top_terms=3)
    order = np.lexsort((ids, -weights))[:3]
    assert few.tolist() == sorted(ids[order].tolist()) and sorted(heavy.tolist()) == sorted(weights[order].tolist())
    [(above, _)] = encoder.encode(["w1 w2 w3"], threshold=1.5)
    assert above.tolist() == ids[weights > 1.5].tolist() and 0 < len(above) < len(ids)
    for options in ({"top_terms": 0}, {"top_terms": 1.5}, {"threshold": -1}, {"threshold": np.nan}):
        with pytest.raises(InputError, match=next(iter(options))):
            encoder.encode(["w1"], **options)


def test_prompts_and_words(tmp_path: Path, encoder: SparseEncoder) -> None:
    prompted = sparse_encoder(tmp_path, query_prompt="w7 ", document_prompt="w8 ")
    assert prompted.explain("w1", queries=True) == encoder.explain("w7 w1") and prompted.explain("w1") == encoder.explain("w8 w1")
    assert prompted.fingerprint != encoder.fingerprint == sparse_encoder(tmp_path, query_prompt="w7 ").fingerprint
    assert encoder.tokens([VOCABULARY["w3"], 0, 10**6]) == ["w3", "[UNK]", "[1000000]"]
    told = encoder.explain("w1 w2")
    assert list(told.values()) == sorted(told.values(), reverse=True) and told == {
        word: weight for word, i in VOCABULARY.items() if (weight := float(weights_of("w1 w2")[i])) > 0
    }


def test_equal_texts_have_arrays_of_their_own(encoder: SparseEncoder) -> None:
    (ids, weights), (_, others), (same, _) = encoder.encode(["w1 w2", "w1 w2", "w1 w2"])
    weights[:], ids[:] = 0, 0
    assert (others > 0).all() and (same > 0).any()


def test_wrong_input(encoder: SparseEncoder) -> None:
    with pytest.raises(InputError, match="one string"):
        encoder.encode("w1")
    with pytest.raises(InputError, match="text of input 1"):
        encoder.encode(["w1", 7])  # type: ignore[list-item]
    with pytest.raises(QueryTooLongError, match=f"at most {LONGEST}"):
        encoder.encode([words(0, LONGEST - 1)], queries=True)
    with pytest.raises(NonFiniteError, match="table-0"):
        encoder.encode(["nan"])
    runtime = Table()
    runtime.outputs = ("logits",)  # type: ignore[assignment]
    with pytest.raises(UnsupportedModelError, match="expected weights"):
        SparseEncoder(runtime, encoder.tokenizer, name="m")


def test_the_stage_is_the_inner_product(stage: SPLADE) -> None:
    """All weights are multiples of 1/8: with the scale 8 nothing is lost."""
    dense = np.stack([weights_of(text) for text in TEXTS]).astype(np.float64)
    queries = ["w1", "w4 w2 w59", "w30 w31 w32", words(0, 5)]
    for query, ranking in zip(queries, stage.run(queries)):
        scores = (dense @ weights_of(query).astype(np.float64)).astype(np.float32)
        order = [row for row in np.lexsort((np.arange(len(TEXTS)), -scores)).tolist() if scores[row] > 0][:5]
        assert ranking.ids.tolist() == order and ranking.scores.tolist() == scores[order].tolist()
        assert ranking.scale == "splade" and ranking.columns["truncated_tokens"].tolist() == [5 if row == 5 else 0 for row in order]
    assert "splade" not in repr(stage) and "SPLADE(k=5, table-0, impact, scale=8" in repr(stage)
    assert len(stage.with_k(2)("w1")) == 2 and stage.retrieves


def test_blank_queries_find_nothing_and_filters_hold(stage: SPLADE) -> None:
    blank, all_of_them, some, none = stage.run(
        [
            rr.Query(" "),
            rr.Query("w1"),
            rr.Query("w1", allow=["3", "0"], terms={"x": 1.0}),
            rr.Query("w1", deny=list(stage.index.corpus.ids)),
        ]
    )
    assert len(blank) == len(none) == 0 and len(all_of_them) == 5
    assert set(some.ids.tolist()) == {0, 3} and len(stage.run([])) == 0
    whole = stage.with_k(10)("w1")
    assert some.ids.tolist() == [row for row in whole.ids.tolist() if row in (0, 3)]
    with pytest.raises(UnknownIdError):
        stage(rr.Query("w1", allow=["nobody"]))
    with pytest.raises(QueryTooLongError):
        stage(words(0, LONGEST))


def test_explanations_are_words_that_add_up(stage: SPLADE) -> None:
    for row, ranking in ((0, stage("w1 w5")), (3, stage("w1 w5"))):
        told = stage.explain("w1 w5", str(row))
        query, document = weights_of("w1 w5"), weights_of(TEXTS[row])
        both = [(word, float(query[i]), float(document[i])) for word, i in VOCABULARY.items() if query[i] > 0 and document[i] > 0]
        assert sorted((t["term"], t["query"], t["document"]) for t in told["terms"]) == sorted(both)
        scores = [t["score"] for t in told["terms"]]
        assert scores == sorted(scores, reverse=True) and told["score"] == pytest.approx(sum(scores))
        assert told["score"] == pytest.approx(float(ranking.scores[ranking.ids == row][0])) and told["id"] == str(row)
    assert stage.explain(rr.Query(" "), "0")["terms"] == []
    few = SPLADE(stage.index, stage.encoder, top_terms=1)
    assert len(few.explain("w1 w5", "0")["terms"]) <= 1 and len(few("w1 w5")) <= len(stage.with_k(10)("w1 w5"))


def test_wrong_parts(stage: SPLADE, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"table-1.*table-0.*made the index"):
        SPLADE(stage.index, sparse_encoder(tmp_path / "other", 1))
    with pytest.raises(InputError, match="SPLADE: index"):
        SPLADE(rr.BM25Index.build(rr.Corpus.from_texts(["a"])), stage.encoder)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="SPLADE: encoder"):
        SPLADE(stage.index, None)  # type: ignore[arg-type]
    for options in ({"k": 0}, {"top_terms": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            SPLADE(stage.index, stage.encoder, **options)


def test_the_real_model_weighs_as_transformers_does() -> None:
    try:
        folder = resolve(REAL).folder
    except MissingDependency as error:
        pytest.skip(str(error))
    pytest.importorskip("torch", reason="the reference implementation is transformers, which needs torch")
    transformers = pytest.importorskip("transformers", reason="the reference implementation is transformers")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    texts = ["what is the life cycle of a flea", "", "Fleas live for 2 to 3 months; " * 40, "Ωμέγα 東京"]
    for runtime in ("onnx", "torch"):
        encoder = rr.load(REAL, runtime=runtime, device="cpu")
        got = encoder.encode(texts)
        for text, (ids, weights) in zip(texts, got):
            want = np.log1p(np.maximum(logits_of(model, encoder.tokenizer.encode([text]).ids[0]), 0)).max(0)
            dense = np.zeros_like(want)
            dense[ids] = weights
            np.testing.assert_allclose(dense, want, atol=1e-4)
        assert next(iter(encoder.explain(texts[0], queries=True))) == "flea"
