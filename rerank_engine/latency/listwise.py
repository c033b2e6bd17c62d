"""The row of LLM listwise, 20 passages in one prompt: behind a stand-in that answers after a stated time, and by a tiny model here.

No language model ships with the package, so neither is one's own speed: the first says what the engine adds to a model behind an API, the
second that the same stage writes and reads with a real network. Both are labelled by what they are.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from ..core import Query, Ranking
from ..corpus import Corpus
from ..demo.pipeline import RERANKER
from ..llm.chat import Chat
from ..llm.parse import read_order, written
from ..runtimes.files import resolve
from ..stages import Listwise
from . import workload
from .prepare import TOKENS, NotMeasured, Prepared, Shared, told_of
from .rows import LatencyRow

SECONDS = 2.0  # until the stand-in answers: the lower end of what is published for GPT-4
HIDDEN, LAYERS, CONTEXT = 64, 2, 8192  # of the tiny model


def listwise(row: LatencyRow, shared: Shared) -> Iterator[Prepared]:
    corpus, n = Corpus.from_texts(workload.passages(1000, TOKENS)), row.documents
    with _stand_in(written(range(n)[::-1])) as url:
        chat = Chat.openai("stand-in", base_url=url, cache=0)
        label = f"a stand-in that answers after {SECONDS:g} s"
        yield _prepared(f"{row.name}, {label}", chat, corpus, n, shared, label, "cpu", "the stand-in", seconds=SECONDS)
        chat.close()
    with tempfile.TemporaryDirectory() as folder:
        parameters = _random_model(Path(folder))
        chat = Chat.local(folder, name="transformers", cache=0)
        label = f"random weights, {parameters:,} parameters"
        yield _prepared(f"{row.name}, {label}", chat, corpus, n, shared, label, "cpu", "the model", parameters=parameters)


def _prepared(
    name: str, chat: Chat, corpus: Corpus, n: int, shared: Shared, model: str, device: str, rest: str, **settings: float
) -> Prepared:
    stage, queries = Listwise(chat, template="rankzephyr", depth=n), shared.queries
    answer = written(range(n)[::-1])

    def candidates(i: int) -> Ranking:
        return Ranking.in_order(corpus, (i * n + np.arange(n)) % len(corpus))

    told = stage.dry_run([Query(queries[0])], [candidates(0)])
    settings |= {"prompts": told.calls, "tokens_of_prompt": told.prompt_tokens}
    return Prepared(
        name=name,
        queries=queries,
        run=lambda i: stage(queries[i], candidates(i)),
        parts={
            "prompt": lambda i: stage.dry_run([queries[i]], [candidates(i)]),
            "reading the answer": lambda i: read_order(answer, n),
        },
        rest=rest,
        told=told_of(stage, device, model, documents=n, tokens=TOKENS, **settings),
    )


@contextmanager
def _stand_in(text: str) -> Iterator[str]:
    """The address of a server in OpenAI's shape that says `text` after SECONDS."""
    body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            time.sleep(SECONDS)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _random_model(folder: Path) -> int:
    """Writes a Llama of HIDDEN numbers a token with random weights, and the bundled re-ranker's tokenizer; its parameters."""
    try:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    except ModuleNotFoundError as error:
        raise NotMeasured("a causal language model takes transformers and torch, which are not installed") from error
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_file=str(resolve(RERANKER).folder / "tokenizer.json"), pad_token="[PAD]", eos_token="[SEP]")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=4 * HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
        max_position_embeddings=CONTEXT, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
