"""MaxSim of residual codes on a device against float64 decoding: in Triton's interpreter without a GPU, natively with one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import rerank_kernels.residual as residual
import triton
import triton.language as tl
from device import DEVICE, poisoned, torch
from rerank_kernels.centroid import centroid_maxsim
from rerank_kernels.codes import Codes, block_words, column_order, held_norms
from rerank_kernels.launch import interpreting
from rerank_kernels.residual import FORMS, builds, query_table, residual_maxsim

from rerank_engine.codec import ResidualCodec, ResidualTokens, pack, unpack
from rerank_engine.ops.residual import residual_maxsim as on_cpu

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of NaN in the interpreter

TILE = 64
LENGTHS = [5, 0, 1, TILE - 1, TILE, TILE + 1, 3 * TILE]
ROWS = [6, 0, 1, 2, 5, 0, 3, 4, -1]  # unsorted, twice, padding
NBITS = (1, 2, 4)
PER_TOKEN = ("centroid_ids", "residuals", "norms")
# of vectors of length 1 and 32 query tokens, at dim 128
ALLOWED = {"raw": 1e-3, "norm": 1e-3, "table": 3e-3, "int8": 3e-3}


def unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    x = rng.normal(size=(n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class Index:
    """Documents of tokens about few topics, as those of a text are, compressed by a codec that is trained on them."""

    def __init__(self, nbits: int, dim: int = 64, lengths: list[int] | None = None, noise: float = 0.4, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        lengths = LENGTHS if lengths is None else lengths
        topics = unit(rng, 40, dim)

        def tokens(n: int) -> np.ndarray:
            x = topics[rng.integers(0, len(topics), n)] + noise * rng.normal(size=(n, dim)) / np.sqrt(dim)
            return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

        self.codec = ResidualCodec.train(tokens(2000), nbits, centroids=topics)
        self.offsets = np.cumsum([0, *lengths])
        self.ids, self.residuals, self.inverse_norms = self.codec.encode(tokens(self.offsets[-1]))
        self.query = tokens(32)

    def codes(self, norms: bool = True, wide: bool = False) -> Codes:
        held = [
            self.codec.centroids,
            self.codec.bucket_weights,
            self.ids.astype(np.int32) if wide else self.ids,
            self.residuals,
            self.offsets,
        ]
        given = [torch.from_numpy(np.ascontiguousarray(x)).to(DEVICE) for x in held]
        return Codes.of(*given, torch.from_numpy(self.inverse_norms).to(DEVICE) if norms else None)

    def score(self, rows: list[int], query: np.ndarray | None = None, codes: Codes | None = None, **options: object) -> np.ndarray:
        on = {name: torch.from_numpy(x).to(DEVICE) if isinstance(x, np.ndarray) else x for name, x in options.items()}
        out, given = poisoned(len(rows)), torch.tensor(rows, dtype=torch.int32, device=DEVICE)
        asked = torch.from_numpy(self.query if query is None else query).to(DEVICE)
        assert residual_maxsim(asked, self.codes() if codes is None else codes, given, out=out, **on) is out
        return out.cpu().numpy()

    def want(self, rows: list[int], query: np.ndarray | None = None, weights: np.ndarray | None = None) -> np.ndarray:
        q = (self.query if query is None else query).astype(np.float64)
        w = np.ones(len(q)) if weights is None else weights
        sums = self.codec.centroids.astype(np.float64)[self.ids] + self.codec.bucket_weights[unpack(self.residuals, self.codec.nbits)]
        tokens = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        scores = []
        for row in rows:
            span = slice(self.offsets[row], self.offsets[row + 1]) if row >= 0 else slice(0, 0)
            scores.append((w[w != 0] * (q[w != 0] @ tokens[span].T).max(1)).sum() if len(tokens[span]) else -math.inf)
        return np.array(scores)


def close(got: np.ndarray, want: np.ndarray, form: str, times: float = 1) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=ALLOWED[form] * times)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nbits", NBITS)
def test_every_form_and_length_against_float64_and_the_cpp_backend(nbits: int, form: str) -> None:
    index = Index(nbits, 128)
    got, want = index.score(ROWS, form=form), index.want(ROWS)
    assert want.max() > 20  # the documents are about what the query is about
    close(got, want, form)
    documents = ResidualTokens(index.codec, index.ids, index.residuals, index.inverse_norms, index.offsets)
    close(got[:-1], on_cpu(index.query, documents, ROWS[:-1], precision="float32", backend="cpp"), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nbits,dim", [(1, 48), (1, 256), (2, 20), (2, 96), (4, 64), (4, 96)])
def test_every_dimension(nbits: int, dim: int, form: str) -> None:
    """Of one and of several blocks, of 4 words and of 8, with columns that no dimension has, of bytes that are no whole words."""
    index = Index(nbits, dim, [3])
    close(index.score([0], form=form), index.want([0]), form, 2)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [0, 1, 16, 33, 65])
def test_every_length_of_a_query(tokens: int, form: str) -> None:
    index, rows = Index(2, lengths=[3, 0]), [0, 1]
    query = np.tile(index.query, (5, 1))[:tokens] * np.linspace(0.5, 1, tokens, dtype=np.float32)[:, None]
    close(index.score(rows, query, form=form), index.want(rows, query), form, 2)


@pytest.mark.parametrize("form", FORMS)
def test_weights_and_masked_tokens(form: str) -> None:
    index, rows = Index(2), [0, 1]
    query, weights = np.tile(index.query, (3, 1))[:70], np.linspace(-1, 2, 70, dtype=np.float32)
    weights[3] = 0
    want = index.want(rows, query, weights)
    query[3] = math.nan  # takes no part
    close(index.score(rows, query, form=form, weights=weights), want, form, 2)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_bits_again_and_wherever_a_document_lies(form: str) -> None:
    index = Index(2)
    got = index.score([5, 0, 5, 3], form=form)
    assert got[0] == got[2]
    np.testing.assert_array_equal(index.score([3, 5, 0], form=form), got[[3, 0, 1]])


@pytest.mark.parametrize("nbits", NBITS)
def test_columns_are_the_dimensions_in_the_order_that_the_bytes_hold_them(nbits: int) -> None:
    """Each dimension once; and where the kernel looks, its code is found, as ColBERT wrote it."""
    for dim in (48, 64, 96, 128, 256):
        order = column_order(dim, nbits).numpy()
        assert sorted(order[order < dim]) == list(range(dim))
        code = np.random.default_rng(dim).integers(0, 1 << nbits, (1, dim)).astype(np.uint8)
        held = np.append(pack(code, nbits)[0], np.zeros(32, np.uint8))
        words, blocks = block_words(dim, nbits)
        axes = {8: "b s h w n", 4: "b s w h n"}[words].split()
        sizes = {"b": blocks, "s": 4 // nbits, "h": 2, "w": words, "n": 4}
        for column, place in enumerate(np.ndindex(*(sizes[axis] for axis in axes))):
            at = dict(zip(axes, place))
            nibble = 8 * (at["b"] * words + at["w"]) + 4 * at["h"] + at["n"]
            found = (held[nibble // 2] >> (nibble % 2 * 4 + nbits * at["s"])) & ((1 << nbits) - 1)
            if order[column] < dim:
                assert int(f"{code[0, order[column]]:0{nbits}b}"[::-1], 2) == found


@triton.jit
def permute_kernel(a_ptr, b_ptr, selector_ptr, out_ptr, ASM: tl.constexpr):
    i = tl.arange(0, 64)
    x = residual.permute(tl.load(a_ptr + i), tl.load(b_ptr + i), tl.load(selector_ptr + i), ASM)
    tl.store(out_ptr + i, residual.kept(x, ASM))


def test_prmt_is_what_its_definition_says() -> None:
    """The PTX manual's, in its default mode, of the instruction on a GPU and of what stands for it elsewhere."""
    rng = np.random.default_rng(0)
    a, b, selector = (rng.integers(-(2**31), 2**31, 64, dtype=np.int64).astype(np.int32) for _ in range(3))
    out = poisoned(64, dtype=torch.int32)
    permute_kernel[(1,)](*(torch.from_numpy(x).to(DEVICE) for x in (a, b, selector)), out, ASM=not interpreting())
    for got, x, y, s in zip(out.cpu().numpy(), a, b, selector):
        octets, want = [*x.tobytes(), *y.tobytes()], []
        for t in range(4):
            chosen = (int(s) >> (4 * t)) & 15
            octet = octets[chosen & 7]
            want.append((255 if octet > 127 else 0) if chosen & 8 else octet)
        assert got.tobytes() == bytes(want)


@pytest.mark.parametrize("form", FORMS)
def test_a_centroid_that_does_not_exist_makes_its_document_nan(form: str) -> None:
    for wide, strange in ((False, 40), (False, 65535), (True, -1), (True, 2**31 - 1)):
        index = Index(2, lengths=[3, 5, 1])
        index.ids = index.ids.astype(np.int32) if wide else index.ids
        index.ids[7] = strange
        assert np.isnan(index.score([0, 1], codes=index.codes(wide=wide), form=form)).tolist() == [False, True]


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_is_never_hidden_and_stays_in_its_document(form: str) -> None:
    index = Index(2, lengths=[3, TILE + 5, 1])
    index.ids[:], index.ids[3 + TILE] = 1, 7
    codes = index.codes()
    codes.centroids[7, 9] = math.nan
    assert np.isnan(index.score([0, 1], codes=codes, form=form)).tolist() == [False, True]
    query = index.query.copy()
    query[2, 5] = math.nan
    assert np.isnan(index.score([0], query, form=form)).all()
    index.codec.bucket_weights[1] = math.nan
    assert np.isnan(index.score([0], form=form)).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_row_that_does_not_exist_scores_nan(form: str) -> None:
    assert np.isnan(Index(2).score([len(LENGTHS), 0, -2, 10**9], form=form)).tolist() == [True, False, True, True]


@pytest.mark.parametrize("form", ["raw", "norm"])
def test_pairs_of_queries_and_documents(form: str) -> None:
    index, lengths = Index(2), [5, 0, 70]
    queries = [np.tile(index.query, (3, 1))[i : i + n] for i, n in enumerate(lengths)]
    pairs, rows = [2, 0, 1, 0], [3, 0, 1, 5]
    given = {"query_offsets": np.cumsum([0, *lengths]), "pairs": np.array(pairs, np.int32)}
    want = np.concatenate([index.want([row], queries[q]) for q, row in zip(pairs, rows)])
    close(index.score(rows, np.concatenate(queries), form=form, **given), want, form, 2)


@pytest.mark.parametrize("form", ["table", "int8"])
def test_pairs_with_a_table_begin_at_whole_blocks(form: str) -> None:
    index, pairs, rows = Index(2), [1, 0, 1], [0, 3, 2]
    queries = [index.query[:30], index.query[5:]]
    padded = np.zeros((64, 64), np.float32)
    padded[:30], padded[32:59] = queries
    given = {"query_offsets": np.array([0, 32, 59]), "pairs": np.array(pairs, np.int32)}
    want = np.concatenate([index.want([row], queries[q]) for q, row in zip(pairs, rows)])
    close(index.score(rows, padded, form=form, **given), want, form, 2)
    given["query_offsets"][1] = 30
    assert np.isnan(index.score(rows, padded, form=form, **given)).tolist() == [True, False, True]


def test_codes_beyond_two_to_the_31_words() -> None:
    """At 4 bits and dim 128 an int32 offset wraps behind token 134,217,728. Only the pages that are touched exist."""
    index, at = Index(4, 128, [50]), 2**27 + 40
    codes = index.codes()
    far = {name: torch.empty(at + 64, *x.shape[1:], dtype=x.dtype, device=DEVICE) for name, x in vars(codes).items() if name in PER_TOKEN}
    for name, x in far.items():
        x[at : at + 50] = getattr(codes, name)
    offsets = torch.tensor([0, at, at + 50, at + 64], device=DEVICE)
    for form in FORMS:
        close(index.score([1], codes=replace(codes, offsets=offsets, **far), form=form), index.want([0]), form, 2)


def test_the_index_is_used_as_it_is_mapped() -> None:
    index = Index(2)
    given = [index.codec.centroids, index.codec.bucket_weights, index.ids, index.residuals, index.offsets, index.inverse_norms]
    tensors = [torch.from_numpy(x).to(DEVICE) for x in given]
    codes = Codes.of(*tensors)
    for held, one in ((codes.centroid_ids, tensors[2]), (codes.residuals, tensors[3]), (codes.offsets, tensors[4])):
        assert held.data_ptr() == one.data_ptr()
    apart = torch.cat([tensors[3].flatten()[:1], tensors[3].flatten()])[1:].view(-1, 16)  # no word begins at a multiple of 4
    assert torch.equal(Codes.of(*tensors[:3], apart, *tensors[4:]).residuals, codes.residuals)


@pytest.mark.parametrize("most,finest", [(1.2, 2**6), (1.8, 2**7), (100.0, 2**10), (30000.0, 2**11)])
def test_inverse_norms_in_two_bytes(most: float, finest: int) -> None:
    """To the nearest step, which is 2^-17 of the value in the first case (float16: 2^-11 to 2^-10)."""
    exact = torch.from_numpy(np.geomspace(0.95, most, 1000).astype(np.float32))
    for scale in (1.0, 2.0**-9):
        held, base, step = held_norms(exact, scale)
        off = base + held.to(torch.int32) * step - (exact / scale).view(torch.int32)
        assert step == finest and off.abs().max().item() <= step // 2
    assert held_norms(torch.tensor([0.0, 1.0, 1.5]), 1.0)[0].tolist()[:2] == [0, 0]
    assert held_norms(torch.tensor([0.0]), 1.0) == (torch.zeros(1, dtype=torch.uint16), 0, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_vectors_far_from_length_one(factor: float, form: str) -> None:
    index = Index(2)
    want = index.want([0])
    index.codec = ResidualCodec(index.codec.centroids * factor, index.codec.bucket_cutoffs * factor, index.codec.bucket_weights * factor)
    index.inverse_norms = (index.inverse_norms / factor).astype(np.float32)
    close(index.score([0], form=form), want, form, 2)


@pytest.mark.parametrize("form", FORMS)
def test_a_token_of_length_zero_scores_zero(form: str) -> None:
    index = Index(1, lengths=[2, 1])
    index.codec.centroids[3] = -index.codec.bucket_weights[1]
    index.ids[2], index.residuals[2], index.inverse_norms[2] = 3, 255, 0
    got = index.score([1], form=form)
    assert abs(got[0]) <= ALLOWED[form] and (form != "raw" or got[0] == 0)


def test_the_form_is_chosen_by_what_is_there() -> None:
    index = Index(2)
    codes, query = index.codes(), torch.from_numpy(index.query).to(DEVICE)
    table = query_table(query, codes)
    rows = [0]
    for form, given, options in (("raw", index.codes(norms=False), {}), ("norm", codes, {}), ("table", codes, {"table": table})):
        np.testing.assert_array_equal(index.score(rows, codes=given, **options), index.score(rows, codes=codes, form=form))
    np.testing.assert_array_equal(index.score(rows, form="int8", table=table), index.score(rows, form="int8"))


def test_a_table_serves_the_candidate_stage_too() -> None:
    index = Index(2)
    codes, rows = index.codes(), torch.tensor([4, 0], dtype=torch.int32, device=DEVICE)
    table = query_table(torch.from_numpy(index.query).to(DEVICE), codes)
    got = centroid_maxsim(table, 32, codes.centroid_ids, codes.offsets, rows).cpu().numpy()
    products = index.query.astype(np.float64) @ index.codec.centroids.T.astype(np.float64)
    want = [products[:, index.ids[index.offsets[row] : index.offsets[row + 1]]].max(1).sum() for row in (4, 0)]
    np.testing.assert_allclose(got, want, atol=3e-3)


def test_nothing_to_score() -> None:
    assert Index(2).score([]).tolist() == []
    empty = Index(2, lengths=[])
    for form in FORMS:
        assert np.isnan(empty.score([0, -1], form=form)).tolist() == [True, False]


def test_what_cannot_be_is_refused() -> None:
    index = Index(2)
    codes = index.codes()
    with pytest.raises(ValueError, match="got form 'norm', expected one of raw"):
        index.score([0], codes=index.codes(norms=False), form="norm")
    with pytest.raises(ValueError, match="got form 'int4'"):
        index.score([0], codes=codes, form="int4")
    with pytest.raises(ValueError, match=r"got a table torch.float16 \[40, 32\], expected float16 \[41, 32 or more"):
        index.score([0], codes=codes, table=query_table(torch.from_numpy(index.query).to(DEVICE), codes)[:-1])
    with pytest.raises(ValueError, match=r"got a table torch.float16 \[41, 16\]"):
        index.score([0], codes=codes, table=query_table(torch.from_numpy(index.query[:9]).to(DEVICE), codes))
    for strange in (math.nan, -1.0, math.inf):
        index.inverse_norms[0] = strange
        with pytest.raises(ValueError, match="inverse norms"):
            index.codes()
    with pytest.raises(ValueError, match="3 bucket weights"):
        Codes.of(codes.centroids, torch.zeros(3), codes.centroid_ids, codes.residuals, codes.offsets)


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_90", "sm_100"])
def test_every_form_has_a_name_of_its_own(target: str) -> None:
    names = [build.variant for build in builds(target)]
    assert len(set(names)) == len(names)
    assert {f"{nbits}bit-{form}-d128-q32" for nbits in NBITS for form in FORMS} <= set(names)
