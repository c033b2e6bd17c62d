"""The rerank APIs that clients speak: what each asks, and how it is answered. Every field may be an explicit null.

Cohere v1 and v2, Jina, Voyage, text-embeddings-inference (TEI), vLLM and infinity. Each dialect is a request model that becomes an `Ask`,
and a function that makes its response of an `Answer`. Sources: the SDKs of Cohere and Voyage, the references of Jina, TEI, vLLM, infinity.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from .service import Ranked


def _unicode(text: str) -> str:
    text.encode()  # a lone surrogate cannot be answered, nor read by a tokenizer: ValueError
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Count = Annotated[int, Field(ge=0, le=1 << 31)]
Priority = Annotated[int, Field(ge=0, le=999)]


@dataclass(frozen=True)
class Spans:
    """Which words of a document were met: at least `threshold` of the query, `most` spans a document."""

    threshold: float = 0.1
    most: int | None = None


@dataclass(frozen=True)
class Ask:
    """What a request wants, in whatever dialect. top: None for all. echo: whether documents are sent back."""

    query: str
    texts: list[str]
    top: int | None = None
    echo: bool = False
    raw: bool = False
    most_tokens: int | None = None
    priority: int = 0
    spans: Spans | None = None
    refuse_long: bool = False


@dataclass(frozen=True)
class Answer:
    """found: what of the order is asked for. spans: of each of these."""

    ask: Ask
    ranked: Ranked
    id: str
    model: str
    warnings: list[str] = field(default_factory=list)
    spans: list[list[dict[str, Any]]] | None = None

    @property
    def found(self) -> list[tuple[int, float]]:
        rows = zip(self.ranked.order.tolist(), self.ranked.scores.tolist())
        return list(rows)[: self.ask.top]


class Asked(BaseModel):
    """What all dialects have in common."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    query: Text
    model: Text | None = None
    priority: Priority | None = None

    def ask(self) -> Ask:
        raise NotImplementedError

    @staticmethod
    def answer(answer: Answer) -> Any:
        raise NotImplementedError


Document = Text | dict[str, Any]


def _joined(document: str | dict[str, Any], fields: list[str] | None) -> str:
    """The text of a document that is an object: of its "text", or of the fields that are asked for, a line each. Raises ValueError."""
    if isinstance(document, str):
        return document
    if fields:
        return "\n".join(f"{name}: {_text_of(document[name])}" for name in fields if document.get(name) is not None)
    if document.get("text") is None:
        raise ValueError("a document that is an object takes a field 'text', or 'rank_fields' that names others")
    return _text_of(document["text"])


def _text_of(value: object) -> str:
    return _unicode(value if isinstance(value, str) else str(value))


class CohereSpans(BaseModel):
    mode: Literal["enabled", "disabled"] = "enabled"
    threshold: Annotated[float, Field(ge=0, le=1)] | None = 0.1
    max_spans: Annotated[int, Field(ge=1)] | None = None


class Cohere(Asked):
    """Cohere v1 and v2, and what Jina, vLLM and infinity add to the same shape."""

    documents: list[Document]
    top_n: Count | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1)] | None = None
    relevant_spans: CohereSpans | None = None
    rank_fields: list[str] | None = None
    max_chunks_per_doc: int | None = None  # of v1: long documents are not cut into chunks here, unless the model is loaded so
    truncate_prompt_tokens: int | None = None
    use_activation: bool | None = None
    raw_scores: bool | None = None

    def ask(self) -> Ask:
        spans = self.relevant_spans
        wanted = (
            None
            if spans is None or spans.mode == "disabled"
            else Spans(0.1 if spans.threshold is None else spans.threshold, spans.max_spans)
        )
        texts = [_joined(document, self.rank_fields) for document in self.documents]
        raw = bool(self.raw_scores) or self.use_activation is False
        return Ask(
            self.query, texts, self.top_n or None, bool(self.return_documents), raw, self.max_tokens_per_doc, self.priority or 0, wanted
        )

    @staticmethod
    def answer(answer: Answer) -> dict[str, Any]:
        """In v2's shape, with what the others read beside it."""
        results = []
        for place, (index, score) in enumerate(answer.found):
            row: dict[str, Any] = {"index": index, "relevance_score": score}
            if answer.ask.echo:
                row["document"] = {"text": answer.ask.texts[index]}
            if answer.spans and answer.spans[place]:
                row["relevant_spans"] = answer.spans[place]
            results.append(row)
        tokens = answer.ranked.tokens
        meta: dict[str, Any] = {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        }
        if answer.warnings:
            meta["warnings"] = answer.warnings
        usage = {"total_tokens": tokens, "prompt_tokens": tokens}
        return {"id": answer.id, "object": "list", "model": answer.model, "results": results, "usage": usage, "meta": meta}


class Jina(Cohere):
    """Jina: documents come back unless they are not wanted."""

    def ask(self) -> Ask:
        return super().ask() if self.return_documents is not None else self.model_copy(update={"return_documents": True}).ask()


class VLLM(Jina):
    """vLLM: documents come back; too long a one is an error, unless `truncate_prompt_tokens` or `max_tokens_per_doc` allows to cut."""

    def ask(self) -> Ask:
        cut = self.truncate_prompt_tokens is not None or self.max_tokens_per_doc is not None
        return Ask(**{**super().ask().__dict__, "refuse_long": not cut})


class Infinity(Cohere):
    @staticmethod
    def answer(answer: Answer) -> dict[str, Any]:
        told = Cohere.answer(answer)
        rows = [{**row, **({"document": row["document"]["text"]} if "document" in row else {})} for row in told["results"]]
        return {**told, "object": "rerank", "created": int(time.time()), "results": rows}


class Voyage(Asked):
    """truncation: False refuses what is too long; by default it is cut."""

    documents: list[Text]
    top_k: Count | None = None
    truncation: bool | None = None
    return_documents: bool | None = None

    def ask(self) -> Ask:
        return Ask(
            self.query, list(self.documents), self.top_k or None, bool(self.return_documents),
            priority=self.priority or 0, refuse_long=self.truncation is False,
        )  # fmt: skip

    @staticmethod
    def answer(answer: Answer) -> dict[str, Any]:
        rows: list[dict[str, Any]] = [{"index": index, "relevance_score": score} for index, score in answer.found]
        if answer.ask.echo:
            rows = [{**row, "document": answer.ask.texts[row["index"]]} for row in rows]
        return {"object": "list", "data": rows, "model": answer.model, "usage": {"total_tokens": answer.ranked.tokens}}


class TEI(Asked):
    """text-embeddings-inference. What is too long is cut unless `truncate` is false: its client libraries ask for that."""

    texts: list[Text]
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right"] | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None

    def ask(self) -> Ask:
        return Ask(
            self.query, list(self.texts), None, bool(self.return_text), bool(self.raw_scores),
            priority=self.priority or 0, refuse_long=self.truncate is False,
        )  # fmt: skip

    @staticmethod
    def answer(answer: Answer) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"index": index, "score": score} for index, score in answer.found]
        return [{**row, "text": answer.ask.texts[row["index"]]} for row in rows] if answer.ask.echo else rows


def _dialect(body: Any) -> str:
    """By its fields, where one path is several vendors'."""
    keys = body if isinstance(body, dict) else set(type(body).model_fields) if isinstance(body, BaseModel) else ()
    return "tei" if "texts" in keys else "voyage" if "top_k" in keys or "truncation" in keys else "cohere"


Any_ = Annotated[Annotated[TEI, Tag("tei")] | Annotated[Voyage, Tag("voyage")] | Annotated[Cohere, Tag("cohere")], Discriminator(_dialect)]


class Score(BaseModel):
    """vLLM's /score: a query with documents, or as many queries as documents, pair by pair."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: Text | None = None
    text_1: Text | list[Text] | None = None
    text_2: Text | list[Text] | None = None
    queries: Text | list[Text] | None = None
    documents: Text | list[Text] | None = None
    items: Text | list[Text] | None = None
    data_1: Text | list[Text] | None = None
    data_2: Text | list[Text] | None = None
    truncate_prompt_tokens: int | None = None
    use_activation: bool | None = None
    priority: Priority | None = None

    def asks(self) -> list[Ask]:
        """One a query. Raises ValueError for texts that are missing or do not pair."""
        first = next((value for value in (self.text_1, self.queries, self.data_1) if value is not None), None)
        second = next((value for value in (self.text_2, self.documents, self.items, self.data_2) if value is not None), None)
        if first is None or second is None:
            raise ValueError("text_1 and text_2, queries and documents (or items), or data_1 and data_2 are needed")
        queries, texts = ([value] if isinstance(value, str) else list(value) for value in (first, second))
        raw, priority, long = self.use_activation is False, self.priority or 0, self.truncate_prompt_tokens is None
        if len(queries) == 1:
            return [Ask(queries[0], texts, raw=raw, priority=priority, refuse_long=long)]
        if len(queries) != len(texts):
            raise ValueError(f"{len(queries)} queries and {len(texts)} documents: one query, or as many as documents")
        return [Ask(query, [text], raw=raw, priority=priority, refuse_long=long) for query, text in zip(queries, texts)]

    @staticmethod
    def answer(scores: list[float], tokens: int, id: str, model: str) -> dict[str, Any]:
        rows = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"id": id, "object": "list", "created": int(time.time()), "model": model, "data": rows, "usage": usage}
