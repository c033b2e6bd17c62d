"""T5's templates: the tokens of the filled-in text as transformers has them, whoever joins them, and what is cut when it is too long."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from t5_models import ANSWERS, SCORES, tokenizer, transformers

from rerank_engine.errors import InputError, QueryTooLongError
from rerank_engine.runtimes.pairs import PROBES
from rerank_engine.runtimes.t5_prompts import PROMPTS, T5Prompt, TemplateTokenizer, t5_prompt
from rerank_engine.runtimes.tokenize import Tokenizer

TEXTS = [
    "w1 w2",
    "w3",
    "a rose: is Relevant: a",
    " two  spaces ",
    "\tlines\n",
    "é 漢字",
    "naïve 🙂",
    "w5 </s> w6",
    "Query: w1 Document: w2",
    "",
]
WORD = st.sampled_from([*TEXTS, "w9", ".", "▁", "<extra_id_3>", "Document1:"])


def made(folder: Path, kind: str = "words", limit: int = 64) -> Tokenizer:
    """kind: "words": split at spaces; "metaspace": no split at other spaces before; "transformers": as its T5Tokenizer writes it."""
    one = tokenizer()
    if kind == "metaspace":
        spaces = tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), "▁")
        ends = tokenizers.normalizers.Strip(left=False)
        one.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.NFKC(), ends, spaces])
        one.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    elif kind == "transformers":
        one = transformers.T5Tokenizer(vocab=SCORES, extra_ids=12).backend_tokenizer
    one.save(str(folder / f"{kind}.json"))
    return Tokenizer(folder / f"{kind}.json", limit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.mark.parametrize(
    "name, texts, filled",
    [
        ("monot5", ("w1", "w2 w3"), "Query: w1 Document: w2 w3 Relevant:"),
        ("rankt5", ("w1", "w2 w3"), "Query: w1 Document: w2 w3"),
        ("duot5", ("w1", "w2", "w3 w4"), "Query: w1 Document0: w2 Document1: w3 w4 Relevant:"),
    ],
)
def test_the_templates_are_the_papers(folder: Path, name: str, texts: tuple[str, ...], filled: str) -> None:
    assert PROMPTS[name].text(texts) == filled
    ids = TemplateTokenizer(made(folder), PROMPTS[name]).encode_texts([texts])[0].ids[0]
    tokens = [made(folder).token(number) for number in ids.tolist()]
    assert "".join(tokens) == "▁" + filled.replace(" ", "▁") + "</s>" and tokens[0] == "▁Query"


@pytest.mark.parametrize("kind", ["words", "metaspace", "transformers"])
@pytest.mark.parametrize("name", PROMPTS)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(texts=st.lists(st.tuples(*[st.lists(WORD, max_size=4).map(" ".join)] * 3), min_size=1, max_size=4))
def test_tokens_are_those_of_transformers(folder: Path, kind: str, name: str, texts: list[tuple[str, str, str]]) -> None:
    own, prompt = made(folder, kind, 10_000), PROMPTS[name]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / f"{kind}.json"))
    rows = [row[: 1 + len(prompt.documents)] for row in texts]
    wanted = [theirs(prompt.text(row))["input_ids"] for row in rows]
    template = TemplateTokenizer(own, prompt)
    assert template.joins
    for joins in (True, False):
        template.joins = joins
        tokens, dropped = template.encode_texts(rows)
        assert [row.tolist() for row in tokens.ids] == wanted and not dropped.any() and not tokens.types.values.any()


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("limit", [17, 18, 25, 40])
def test_only_documents_are_cut_and_joined_as_a_whole(folder: Path, name: str, limit: int) -> None:
    """By either way the same tokens stay: all of the query, the template and </s>, and the first ones of each document."""
    prompt, rng = PROMPTS[name], np.random.default_rng(limit)
    own = made(folder, limit=limit)
    rows = [("w1 w2", *(" ".join(f"w{i}" for i in rng.integers(0, 60, n)) for n in sizes)) for sizes in rng.integers(1, 40, (30, 2))]
    rows = [row[: 1 + len(prompt.documents)] for row in rows]
    template = TemplateTokenizer(own, prompt)
    found = []
    for joins in (True, False):
        template.joins = joins
        tokens, dropped = template.encode_texts(rows)
        found.append(([row.tolist() for row in tokens.ids], dropped.tolist()))
        assert tokens.dropped.tolist() == dropped.sum(1).tolist() and tokens.ids.lengths.max() <= limit
        for row, ids, cut in zip(rows, tokens.ids, dropped.tolist()):
            kept = [" ".join(text.split()[: len(text.split()) - n]) for text, n in zip(row[1:], cut)]
            assert ids.tolist() == own.raw(prompt.text((row[0], *kept)))
            assert not any(cut) or limit - len(ids) < len(prompt.documents)
    assert found[0] == found[1]


def test_two_documents_share_the_room_evenly(folder: Path) -> None:
    template = TemplateTokenizer(made(folder, limit=32), PROMPTS["duot5"])
    fixed = template.encode_texts([("w1", "", "")])[0].ids.lengths[0]
    room = 32 - int(fixed)
    for first, second in [(3, 60), (60, 3), (60, 60), (room // 2, 60), (room // 2 + 2, 60), (room - 1, 1), (room, 1), (0, 60)]:
        texts = [" ".join(["w5"] * n) for n in (first, second)]
        (_, dropped), (_, turned) = (template.encode_texts([("w1", *row)]) for row in (texts, texts[::-1]))
        kept = np.array([first, second]) - dropped[0]
        assert turned[0].tolist() == dropped[0, ::-1].tolist(), "which side a document is on"
        assert kept.tolist() == [min(first, max(room // 2, room - second)), min(second, max(room // 2, room - first))]


def test_a_query_is_never_cut(folder: Path) -> None:
    long = " ".join(["w1"] * 40)
    for name, prompt in PROMPTS.items():
        template, rest = TemplateTokenizer(made(folder, limit=32), prompt), ("w2", "w3")[: len(prompt.documents)]
        for joins in (True, False):
            template.joins = joins
            with pytest.raises(QueryTooLongError, match="query of input 1"):
                template.encode_texts([("w1", *rest), (long, *rest)])
            with pytest.raises(InputError, match=r"document of input 1: got .* tokens too many"):
                template.encode_texts([("w1", *rest), ("w1", long, *rest[1:])], long="error")
        if name != "duot5":
            with pytest.raises(InputError, match="long"):
                template.encode([("w1", "w2")], long="chunk")


def test_texts_that_are_none(folder: Path) -> None:
    template = TemplateTokenizer(made(folder), PROMPTS["monot5"])
    for joins in (True, False):
        template.joins = joins
        with pytest.raises(InputError, match="text of input 1: got a lone surrogate at 3"):
            template.encode([("w1", "w2"), ("w1", "w2 \ud800")])
        assert len(template.encode([]).tokens.ids) == 0


def test_a_tokenizer_whose_texts_do_not_join_is_asked_as_a_whole(folder: Path) -> None:
    one = tokenizer()
    one.normalizer = tokenizers.normalizers.Replace(": ", ":")  # the seam between template and text
    one.save(str(folder / "odd.json"))
    own = Tokenizer(folder / "odd.json", 64)
    template = TemplateTokenizer(own, PROMPTS["monot5"])
    assert not template.joins and "encoded whole" in repr(template)
    assert template.encode([PROBES[0]]).tokens.ids[0].tolist() == own.raw(PROMPTS["monot5"].text(PROBES[0]))


def test_answers_are_tokens_by_name(folder: Path) -> None:
    own = made(folder)
    assert t5_prompt("monot5", None, multilingual=False).tokens(own) == (own.token_id("▁true"), own.token_id("▁false"))
    assert t5_prompt("duot5", None, multilingual=True).tokens(own) == (own.token_id("▁yes"), own.token_id("▁no"))
    assert t5_prompt("monot5", ("▁w1", "▁w2"), multilingual=True).tokens(own) == (own.token_id("▁w1"), own.token_id("▁w2"))
    assert t5_prompt("rankt5", None, multilingual=True).tokens(own) == (own.token_id("<extra_id_10>"),)
    assert len(ANSWERS) == 4
    with pytest.raises(InputError, match=r"'true', which is no token.*'▁true' is one"):
        t5_prompt("monot5", ("true", "false"), multilingual=False).tokens(own)
    with pytest.raises(InputError, match=r"'▁sim', which is no token"):
        t5_prompt("monot5", ("▁sim", "▁não"), multilingual=False).tokens(own)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: T5Prompt("Query: {query}"), "each once"),
        (lambda: T5Prompt("{query} {document} {first}"), "each once"),
        (lambda: T5Prompt("{query} {first}"), "each once"),
        (lambda: T5Prompt("{query} {query} {document}"), "each once"),
        (lambda: T5Prompt(None), "template"),  # type: ignore[arg-type]
        (lambda: T5Prompt("{query} {document}", ()), "answers"),
        (lambda: T5Prompt("{query} {document}", ("a", "a")), "two different"),
        (lambda: T5Prompt("{query} {document}", "yes"), "answers"),  # type: ignore[arg-type]
        (lambda: t5_prompt("bart", None, False), "monot5, rankt5, duot5"),
        (lambda: t5_prompt("monot5", "▁true", False), "in a tuple"),
        (lambda: t5_prompt("rankt5", ("a", "b"), False), "as many as the prompt's: 1"),
    ],
)
def test_prompts_that_are_none(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()


def test_braces_in_a_text_are_a_text() -> None:
    assert PROMPTS["monot5"].text(("{document}", "{query} {first}")) == "Query: {document} Document: {query} {first} Relevant:"
    turned = T5Prompt("{document}? asks {query}", ("▁w1",))
    assert turned.text(("w1", "w2")) == "w2? asks w1" and turned.documents == ("document",)
