"""Cross-encoders on a CUDA device: the packed torch runtime beside transformers and sentence-transformers on the same weights, in float16.

    python -m benchmarks.cross_gpu [--quick] [--json] [--weights FOLDER]

Models: ms-marco-MiniLM-L-12-v2 with its numbers (of the bundled package, or of a folder with its model.onnx), and the shape of
bge-reranker-v2-m3 (XLM-R large) with random ones: the time is that of the shape. Cases: pairs x mean tokens, real text.
`ms`: wall time to scores on the host, from token ids on the host ("-ids"), from texts never seen before ("-texts"), or from passages whose
tokens are remembered ("-texts-known").
Peers: transformers-padded: its model with scaled_dot_product_attention, length-sorted batches of 32 padded to their longest, which is what
sentence-transformers does from texts at its default batch; transformers-one-batch: all in one padded batch. "floor (predicted)": FLOPs at
the data sheet's rate, attention at real lengths.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cross, cross_models, harness
from benchmarks.gpu import card
from benchmarks.roofline import CARDS
from rerank_engine.runtimes.batching import run_batched
from rerank_engine.runtimes.checkpoint import read_checkpoint
from rerank_engine.runtimes.files import read_json, resolve
from rerank_engine.runtimes.pairs import PairTokenizer
from rerank_engine.runtimes.tokenize import Tokenizer, Tokens
from rerank_engine.runtimes.torch import TorchRuntime
from rerank_engine.stages.cross import CrossEncoder

LARGE = {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
Call = Callable[[], np.ndarray]


def lengths_of(n: int, mean: int) -> np.ndarray:
    """Of passages, in tokens: lognormal, so that pairs with their question have this mean."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(mean - 11) - 0.08, 0.4, n), 16, 450).astype(np.int64)


def minilm(folder: Path, weights: str | None) -> Path:
    source = Path(weights) if weights else resolve(cross_models.NAME).folder
    cross_models.write_fp32((source / "model.onnx").read_bytes(), folder, source)
    return folder


def large(folder: Path, tokenizer: Path) -> Path:
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(0)
    config = XLMRobertaConfig(**LARGE, max_position_embeddings=514, type_vocab_size=1, num_labels=1, pad_token_id=1)
    XLMRobertaForSequenceClassification(config).half().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


def forward(model: Any, tokens: Tokens, size: int) -> Call:
    """transformers from ids on the host: sorted by length, padded, a batch at a time; one wait at the end, as sentence-transformers."""
    order = np.argsort(-tokens.ids.lengths, kind="stable")
    typed = model.config.type_vocab_size > 1

    def call() -> np.ndarray:
        found = []
        for begin in range(0, len(order), size):
            rows = order[begin : begin + size]
            longest = int(tokens.ids.lengths[rows].max())
            ids, types, mask = (np.zeros((len(rows), longest), np.int64) for _ in range(3))
            for i, row in enumerate(rows.tolist()):
                n = len(tokens.ids[row])
                ids[i, :n], types[i, :n], mask[i, :n] = tokens.ids[row], tokens.types[row], 1
            given = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if typed else {})
            with torch.inference_mode():
                found.append(model(**{name: torch.from_numpy(array).cuda() for name, array in given.items()}).logits[:, 0])
        scores = np.empty(len(order), np.float32)
        scores[order] = torch.cat(found).float().cpu().numpy()
        return scores

    return call


def timed(sides: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """ms of each, in turns, after two rounds that warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 2):
        for name, call in sorted(sides.items(), reverse=bool(number % 2)):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            call()
            spent = (time.perf_counter() - begin) * 1e3
            if number >= 2:
                times[name].append(spent)
    return times


def floor_ms(lengths: np.ndarray, hidden: int, layers: int) -> float | None:
    known = card()
    flops = layers * (24 * hidden**2 * float(lengths.sum()) + 4 * hidden * float((lengths**2).sum()))
    return flops / CARDS[known].tflops / 1e9 if known else None


def rows_of(name: str, folder: Path, sizes: tuple[int, ...], mean: int, rounds: int) -> Iterator[harness.Row]:
    from transformers import AutoModelForSequenceClassification

    config = read_json(folder / "config.json")
    runtime = TorchRuntime(read_checkpoint(name, folder, config), device="cuda")
    tokenizer = Tokenizer(folder / "tokenizer.json", 512)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float16, attn_implementation="sdpa").cuda().eval()
    for n in sizes:
        pairs = cross.pairs(folder / "tokenizer.json", lengths_of(n, mean), 0)
        tokens = tokenizer.encode_pairs(pairs)
        case, known = f"{name}-{n}x{mean}", CrossEncoder(runtime, tokenizer, name=name)
        fresh = CrossEncoder(runtime, tokenizer, name=name, pairs=PairTokenizer(tokenizer, cache_bytes=0))
        sides: dict[str, Call] = {
            "ours": lambda tokens=tokens: run_batched(runtime, tokens, "logits")[:, 0],  # type: ignore[misc]
            "transformers-padded": forward(model, tokens, 32),
            "transformers-one-batch": forward(model, tokens, n),
        }
        mine = sides["ours"]()
        for peer in ("transformers-padded", "transformers-one-batch"):
            theirs = sides[peer]()
            error = float(np.abs(mine - theirs).max())
            harness.note(
                f"{case} {peer}: largest difference {error:.3g} of {np.abs(theirs).max():.3g}, order {np.corrcoef(mine, theirs)[0, 1]:.5f}"
            )
            harness.verify(peer, error < 0.02 * max(1.0, float(np.abs(theirs).max())))
        floor = floor_ms(tokens.ids.lengths, config["hidden_size"], config["num_hidden_layers"])
        yield from table(f"{case}-ids", timed(sides, rounds), floor, {"tokens": int(tokens.ids.lengths.sum()), "runtime": repr(runtime)})
        for label, ours in (("texts", fresh), ("texts-known", known)):
            texts: dict[str, Call] = {"ours": lambda pairs=pairs, ours=ours: ours.predict(pairs).values}  # type: ignore[misc]
            if config["model_type"] == "bert" and importlib.util.find_spec("sentence_transformers"):  # the other's tokenizer is not its own
                texts["sentence-transformers"] = by_sentence_transformers(folder, pairs)
            yield from table(f"{case}-{label}", timed(texts, max(3, rounds // 3)), None, {})


def by_sentence_transformers(folder: Path, pairs: list[tuple[str, str]]) -> Call:
    from sentence_transformers import CrossEncoder as Theirs

    theirs = Theirs(str(folder), device="cuda", model_kwargs={"dtype": torch.float16}, max_length=512)
    return lambda: theirs.predict(pairs, show_progress_bar=False)


def table(case: str, times: dict[str, list[float]], floor: float | None, more: dict[str, Any]) -> Iterator[harness.Row]:
    mine = statistics.median(times["ours"])
    on = {"backend": "torch", "device": torch.cuda.get_device_name(), **more}
    for peer, theirs in times.items():
        if peer != "ours":
            spread = np.percentile([b / a for a, b in zip(times["ours"], theirs)], [25, 75]).tolist()
            yield harness.row("cross_encoder", case, peer, "ms", mine, statistics.median(theirs), spread, **on)
    if floor is not None:
        spread = np.percentile([floor / a for a in times["ours"]], [25, 75]).tolist()
        yield harness.row("cross_encoder", case, "floor (predicted)", "ms", mine, floor, spread, **on)


def rows(quick: bool, weights: str | None) -> Iterator[harness.Row]:
    rounds = 5 if quick else 15
    with tempfile.TemporaryDirectory() as made:
        small = minilm(Path(made) / "small", weights)
        yield from rows_of("minilm-l12", small, (20, 100, 1000), 150, rounds)
        yield from rows_of("xlm-r-large", large(Path(made) / "large", small), (100, 1000), 150, max(3, rounds // 3))


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--weights", metavar="FOLDER", help="with model.onnx and the tokenizer of ms-marco-MiniLM-L-12-v2")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks.cross_gpu: no CUDA device.")
    harness.report(lambda: rows(args.quick, args.weights), args.json, {})


if __name__ == "__main__":
    main()
