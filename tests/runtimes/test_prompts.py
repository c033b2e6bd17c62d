"""Prompts of decoders: the texts around a pair, what is cut of it, and a whole reranker against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
from models import byte_level

from rerank_engine.errors import CorruptModelError, InputError, QueryTooLongError
from rerank_engine.runtimes.prompts import PROMPTS, Prompt, PromptTokenizer, prompt_of
from rerank_engine.runtimes.tokenize import Tokenizer


@pytest.mark.parametrize("name", PROMPTS)
def test_a_pair_is_the_prompt_around_it(tmp_path: Path, name: str) -> None:
    tokenizer, prompt = Tokenizer(byte_level(tmp_path), 600), PROMPTS[name]
    whole = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    made = PromptTokenizer(tokenizer, prompt).encode([("what is a rose", "a rose is a rose"), ("é", "漢字 🙂")])
    for row, (query, document) in zip(made.tokens.ids, [("what is a rose", "a rose is a rose"), ("é", "漢字 🙂")]):
        assert whole.decode(row.tolist(), skip_special_tokens=False) == prompt.head + query + prompt.between + document + prompt.after
    assert made.owner.tolist() == [0, 1] and made.chunks.tolist() == [1, 1] and not made.dropped.any()
    assert "{instruction}" not in prompt.head


def test_only_the_document_is_cut_and_its_tokens_are_counted(tmp_path: Path) -> None:
    prompt = Prompt("Q: ", " D:", " A:", "yes", "no")
    full = PromptTokenizer(Tokenizer(byte_level(tmp_path), 600), prompt)
    pair = ("a rose", " is a rose" * 20)
    whole = full.encode([pair]).tokens.ids[0]
    cut = PromptTokenizer(Tokenizer(tmp_path / "tokenizer.json", len(whole) - 7), prompt)
    got = cut.encode([pair])
    behind = len(full._after)
    assert got.dropped.tolist() == [7]
    np.testing.assert_array_equal(got.tokens.ids[0], np.concatenate((whole[: len(whole) - behind - 7], whole[-behind:])))
    with pytest.raises(InputError, match="document of input 0: got 7 tokens too many"):
        cut.encode([pair], long="error")
    with pytest.raises(InputError, match="truncate or error"):
        cut.encode([pair], long="chunk")
    with pytest.raises(QueryTooLongError, match="query of input 1"):
        cut.encode([pair, ("a rose " * 300, "is")])


def test_an_instruction_is_put_in_and_names_are_known(tmp_path: Path) -> None:
    qwen = prompt_of("qwen3-reranker")
    assert f"<Instruct>: {qwen.instruction}\n<Query>: " in qwen.head
    with pytest.raises(InputError, match="qwen3-reranker, mxbai-rerank-v2"):
        prompt_of("gpt")
    with pytest.raises(InputError, match="Prompt: yes"):
        Prompt("", "", "", 1, "no")  # type: ignore[arg-type]
    with pytest.raises(CorruptModelError, match="no token 'maybe'"):
        Prompt("", "", "", "maybe", "no").choice(Tokenizer(byte_level(tmp_path), 600))
    with pytest.raises(InputError, match="lone surrogate"):
        PromptTokenizer(Tokenizer(tmp_path / "tokenizer.json", 600), qwen).encode([("a", "\ud800")])
