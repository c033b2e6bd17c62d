"""Requests that nobody means: every dialect answers each in time, never with a status of 500 or more. --thorough: 10,000 of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from words_scorer import Words

import rerank_engine as rr
from rerank_engine.serve import Limits, create_app

MOUNTS = ("", "/cohere", "/jina", "/voyage", "/tei", "/vllm", "/infinity")
PATHS = [
    *(f"{mount}{path}" for mount in MOUNTS for path in ("/rerank", "/v1/rerank", "/v2/rerank")),
    "/score", "/v1/score", "/search",
]  # fmt: skip
FIELDS = [
    "query", "documents", "texts", "top_n", "top_k", "model", "return_documents", "return_text", "raw_scores", "truncate", "truncation",
    "max_tokens_per_doc", "relevant_spans", "rank_fields", "priority", "text_1", "text_2", "queries", "items", "data_1", "data_2",
    "use_activation", "truncate_prompt_tokens", "depth", "max_chunks_per_doc", "truncation_direction",
]  # fmt: skip
TEXT = st.text(max_size=40) | st.sampled_from(["", " ", "green tea", "nul\x00l", "\u202e", "é" * 300, "\ud800"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LIKELY = {
    "query": TEXT, "documents": st.lists(TEXT | st.dictionaries(st.sampled_from(["text", "title"]), VALUE, max_size=3), max_size=8),
    "texts": st.lists(TEXT, max_size=8), "top_n": st.integers(-1, 9), "top_k": st.integers(-1, 9),
    "text_1": TEXT | st.lists(TEXT, max_size=4),
    "text_2": TEXT | st.lists(TEXT, max_size=4), "rank_fields": st.lists(st.sampled_from(["text", "title", "none"]), max_size=3),
    "max_tokens_per_doc": st.integers(-1, 600), "priority": st.integers(-1, 1000),
}  # fmt: skip
WORDS = st.text("abc é\u4e2d", min_size=1, max_size=20).map(lambda text: f"tea {text}")
NAMES = {"/tei": ("query", "texts"), "/score": ("text_1", "text_2"), "/v1/score": ("queries", "items")}


def meant(path: str) -> st.SearchStrategy:
    """Bodies that the path takes."""
    first, second = next((names for start, names in NAMES.items() if path.startswith(start)), ("query", "documents"))
    return st.fixed_dictionaries({first: WORDS, second: st.lists(WORDS, max_size=8)})


def nearly(path: str) -> st.SearchStrategy:
    """With one field that is anything."""
    return st.tuples(meant(path), st.sampled_from(FIELDS), VALUE).map(lambda given: {**given[0], given[1]: given[2]})


BODY = st.fixed_dictionaries({}, optional={name: LIKELY.get(name, VALUE) | VALUE for name in FIELDS})
CALLS = st.sampled_from(PATHS).flatmap(
    lambda path: st.tuples(st.just(path), st.sampled_from([meant(path), nearly(path), BODY, VALUE]).flatmap(lambda kind: kind))
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "x-deadline-ms": st.sampled_from(["1", "50", "0", "-3", "nan", "inf", "1e400", "x"]),
        "x-request-id": st.sampled_from(["ok-1", "a" * 500, "a b", '"']),
        "content-type": st.sampled_from(["application/json", "text/plain", "multipart/form-data; boundary=x", "x"]),
    },
)


def resident_kb() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))


def test_nothing_brings_the_server_down(thorough):
    retriever, examples = rr.BM25(rr.BM25Index.build(rr.Corpus.from_texts(["green tea", "black coffee"]))), 10_000 if thorough else 400
    seen, asked = dict[int, int](), list[tuple]()

    with TestClient(create_app(Words(), retriever=retriever, limits=Limits(body_bytes=20_000)), raise_server_exceptions=False) as client:

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            CALLS,
            HEADERS,
            st.sampled_from([b"", b"{", b'{"query": NaN}', b"\xff\xfe", *[None] * 40]),
        )
        def one(call, headers, noise):
            path, body = call
            content = json.dumps(body).encode() if noise is None else noise
            start = time.monotonic()
            answer = client.post(path, content=content, headers=headers)
            assert time.monotonic() - start < 2
            assert answer.status_code < 500 or answer.status_code == 504, (path, body, answer.text)
            assert answer.status_code != 504 or "x-deadline-ms" in headers
            json.loads(answer.content)
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
            asked.append((path, content, headers))

        one()
        sizes = []
        for _ in range(4 if thorough else 0):  # what making them up took has no part in this
            for path, content, headers in asked[:2500]:
                client.post(path, content=content, headers=headers)
            sizes.append(resident_kb())
        assert client.post("/rerank", json={"query": "green tea", "texts": ["tea", "x"]}).status_code == 200
    assert seen.get(200, 0) > examples / 20 and seen.get(422, 0) > 0
    if thorough:
        assert sizes[-1] < 1.05 * sizes[0]
