"""How decoders are asked whether a document is relevant: a text around query and document, and the two tokens that answer.

The texts are those that the models were trained with; another wording gives other scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import CorruptModelError, InputError, QueryTooLongError
from ..packed import Packed
from .pairs import PairTokens
from .tokenize import Tokenizer, Tokens


@dataclass(frozen=True)
class Prompt:
    """before + query + between + document + after, with `instruction` in place of "{instruction}" in before. yes, no: single tokens."""

    before: str
    between: str
    after: str
    yes: str
    no: str
    instruction: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str):
                raise InputError(f"Prompt: {name}", got=value, expected="a string")

    @property
    def head(self) -> str:
        return self.before.replace("{instruction}", self.instruction)

    def choice(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """The numbers of the tokens (yes, no). Raises CorruptModelError when the tokenizer has no such token."""
        found = tokenizer.token_id(self.yes), tokenizer.token_id(self.no)
        if found[0] is None or found[1] is None:
            missing = self.yes if found[0] is None else self.no
            raise CorruptModelError(
                "prompt", got=f"no token '{missing}' in the tokenizer", expected="the tokenizer that belongs to the model"
            )
        return found[0], found[1]


_TURN = "<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    # Qwen3-Reranker, as its model card has it
    "qwen3-reranker": Prompt(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
        'answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}\n<Query>: ',
        "\n<Document>: ",
        _TURN + "<think>\n\n</think>\n\n",
        "yes",
        "no",
        "Given a web search query, retrieve relevant passages that answer the query",
    ),
    # mxbai-rerank-v2, as its own library has it
    "mxbai-rerank-v2": Prompt(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n<|im_start|>user\nquery: ",
        "\ndocument: ",
        "\nYou are a search relevance expert who evaluates how well documents match search queries. For each query-document pair, "
        "carefully analyze the semantic relationship between them, then provide your binary relevance judgment (0 for not relevant, 1 for "
        "relevant).\nRelevance:" + _TURN,
        "1",
        "0",
    ),
}


def prompt_of(name: str | Prompt) -> Prompt:
    """A prompt, or one of PROMPTS by its name. Raises InputError."""
    if isinstance(name, Prompt):
        return name
    if not isinstance(name, str) or name not in PROMPTS:
        raise InputError("prompt", got=name, expected="a Prompt, or one of " + ", ".join(PROMPTS))
    return PROMPTS[name]


class PromptTokenizer:
    """Pairs to tokens by a prompt, as `PairTokenizer` does by a template. Each pair is encoded as a whole, since a token may lie across the
    seam between prompt and document; what is too long loses the document's last tokens, and the query is never cut."""

    concatenates = False

    def __init__(self, tokenizer: Tokenizer, prompt: Prompt) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self._after = tokenizer.plain([prompt.after])[0].astype(np.int64)

    def encode(
        self, pairs: Sequence[tuple[str, str]], *, long: str = "truncate", window: int | None = None, stride: int | None = None
    ) -> PairTokens:
        """long: "truncate" or "error"; there are no chunks. Raises InputError, QueryTooLongError."""
        if long not in ("truncate", "error"):
            raise InputError("long", got=long, expected="truncate or error, of a model with a prompt")
        heads = [self.prompt.head + query + self.prompt.between for query, _ in pairs]
        encoded = self.tokenizer.with_starts([head + document for head, (_, document) in zip(heads, pairs)])
        most, rows, dropped = self.tokenizer.max_length - len(self._after), [], np.zeros(len(pairs), np.int32)
        for i, (ids, starts) in enumerate(encoded):
            excess = len(ids) - most
            if excess > 0:
                own = int((starts >= len(heads[i])).sum())
                if excess >= own:
                    got = f"{len(ids) - own + len(self._after)} tokens with its prompt"
                    raise QueryTooLongError(f"query of input {i}", got=got, expected=f"fewer than {self.tokenizer.max_length}")
                if long == "error":
                    raise InputError(f"document of input {i}", got=f"{excess} tokens too many", expected=f"at most {own - excess}")
                ids, dropped[i] = ids[: len(ids) - excess], excess
            rows.append(np.concatenate((ids, self._after)))
        packed = Packed.from_rows(rows, np.int64)
        tokens = Tokens(packed, Packed(np.zeros_like(packed.values), packed.offsets), dropped)
        return PairTokens(tokens, np.arange(len(pairs)), dropped, np.ones(len(pairs), np.int32))
