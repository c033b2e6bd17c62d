"""The least time that a GPU's data sheet allows for each row of the latency table and for each kernel: predicted, nothing here is measured.

floor = max(bytes / memory bandwidth, FLOPs / dense fp16 tensor throughput), in us. Bytes: what has to come from memory at least once, and
what is written; a table that stays in the L2 cache (centroids, query-centroid products) is not counted, nor are activations between the
layers of a model. FLOPs: of the matrix products, at the rate of fp16. MaxSim over int8 takes two products at twice that rate, which is the
same; residual codes through int8 take one, which is half of a figure with a star.

    python -m benchmarks.roofline [--json] [--bandwidth GB/S --tflops TFLOP/S [--name CARD]]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerank_kernels.config import TARGETS

TITLE = "Predicted floors: bytes / bandwidth or FLOPs / tensor throughput, whichever is larger; nothing is measured"


@dataclass(frozen=True)
class Card:
    """By its data sheet: memory bandwidth and dense fp16 tensor throughput, without sparsity."""

    gb_per_s: float
    tflops: float


# NVIDIA data sheets: of the GPUs that kernels are gated for by kernels/config.py, of the others here
_GATED = {target.example: Card(target.memory_gb_per_s, target.fp16_tflops) for target in TARGETS.values()}
CARDS = dict(sorted((_GATED | {"H200": Card(4800, 989), "T4": Card(320, 65)}).items(), key=lambda item: (item[1].tflops, item[1].gb_per_s)))
CLOCK_GHZ = {"sm_80": 1.41, "sm_89": 2.04, "sm_90": 1.83, "sm_100": 1.86}  # which the data sheet's tensor throughput implies


@dataclass(frozen=True)
class Case:
    group: str  # "latency table" or "kernel"
    name: str
    bytes: float
    flops: float
    published_ms: tuple[float, float] | None = None  # the range that is commonly quoted for the row

    def floor(self, card: Card) -> tuple[float, str]:
        """(us, what binds: "bytes" or "tensor cores")"""
        moving, computing = self.bytes / card.gb_per_s / 1e3, self.flops / card.tflops / 1e6
        return (moving, "bytes") if moving >= computing else (computing, "tensor cores")


def issue_floor_us(target: str, tokens: int, instructions_per_token: float) -> float:
    """The time in which the schedulers of the target's GPU, four a multiprocessor, can issue a loop's warp-instructions; also predicted."""
    per_us = TARGETS[target].multiprocessors * 4 * CLOCK_GHZ[target] * 1e3
    return tokens * instructions_per_token / per_us


def maxsim(name: str, documents: int, tokens: int, bytes_per_token: float, query: int = 32, dim: int = 128, **more: Any) -> Case:
    """Documents read once, the query and the scores; a multiplication and an addition for each pair of tokens and dimension."""
    moved = documents * tokens * bytes_per_token + query * dim * 2 + documents * 4
    return Case("latency table", name, moved, 2 * documents * tokens * query * dim, **more)


def encoder_flops(tokens: int, length: int, hidden: int, layers: int, inner: int = 4) -> float:
    """Of a BERT over so many tokens in all, in sequences of `length`: 4 + 2 inner products with hidden x hidden weights, and attention."""
    return tokens * layers * (2 * (4 + 2 * inner) * hidden**2 + 4 * length * hidden)


def encoder_weights(hidden: int, layers: int, inner: int = 4) -> float:
    """Bytes in fp16, without the embeddings."""
    return 2 * layers * (4 + 2 * inner) * hidden**2


STORED = {  # bytes of a token of 128 dimensions
    "fp16": 256,
    "int8 and a scale": 130,
    "4 bit, u16 id": 66,
    "2 bit, i32 id": 36,
    "1 bit, u16 id": 18,
}
RESIDUAL = {bits: 16 * bits + 4 for bits in (4, 2, 1)}  # with an i32 id, or with a u16 id and an fp16 norm
ENCODERS = {"MiniLM-L6": (384, 6), "MiniLM-L12": (384, 12), "BERT-base": (768, 12), "BERT-large": (1024, 24)}
LLM = 7.24e9  # parameters of Zephyr 7B
PAIR = 210  # tokens: a question of 30 and a passage of 180


def latency_rows() -> list[Case]:
    """Of the table of latencies that are commonly quoted, what a GPU computes; BM25 is not."""
    colbert = (50, 200)
    rows = [maxsim(f"ColBERT, top 1000 x 180 tokens, {how}", 1000, 180, held, published_ms=colbert) for how, held in STORED.items()]
    rows += [
        maxsim(f"ColPali, 1000 pages x 1030 tokens, 30 of the query, {how}", 1000, 1030, STORED[how], query=30)
        for how in STORED
        if not how.startswith(("int8", "4"))
    ]
    batch = maxsim("", 64 * 1000, 180, STORED["fp16"])
    rows.append(Case("latency table", "64 queries, each its own 1000 documents, fp16", batch.bytes, batch.flops))
    once = 1000 * 180 * STORED["fp16"] + 64 * 32 * 128 * 2
    rows.append(Case("latency table", "64 queries, the same 1000 documents, fp16", once, batch.flops))
    for name, (hidden, layers) in ENCODERS.items():
        for pairs, published in ((100, (100, 1000)), (1000, (1000, 5000))):
            flops = encoder_flops(pairs * PAIR, PAIR, hidden, layers)
            held = encoder_weights(hidden, layers)
            rows.append(Case("latency table", f"cross-encoder {name}, top {pairs} x {PAIR} tokens", held, flops, published))
    query = encoder_weights(768, 12), encoder_flops(32, 32, 768, 12)
    rows.append(Case("latency table", "encoding a query of 32 tokens, BERT-base", *query))
    scan = 1e6 * 768 * 2, 2 * 1e6 * 768
    rows.append(Case("latency table", "bi-encoder, all of 1,000,000 x 768, fp16", *scan, published_ms=(10, 100)))
    weights = 2 * LLM
    rows.append(Case("latency table", "LLM listwise, 7 B: reading 4000 tokens, 20 passages", weights, 4000 * 2 * LLM, (2000, 10_000)))
    rows.append(Case("latency table", "LLM listwise, 7 B: writing 100 tokens, 20 ranks", 100 * weights, 100 * 2 * LLM, (2000, 10_000)))
    return rows


def kernel_rows() -> list[Case]:
    """Of each kernel at one size, of BERT-base where the model counts."""
    tokens, hidden, heads_in = 1000 * PAIR, 768, 3 * 768
    centroids = 65_536
    scan = centroids * 256 + 32 * 256 + centroids * 32 * 2, 2 * centroids * 32 * 128
    rows = [
        maxsim(f"MaxSim, 1000 x 180 tokens, {how}", 1000, 180, held) for how, held in STORED.items() if how in ("fp16", "int8 and a scale")
    ]
    how = "i32 id, or u16 id and norm"
    rows += [maxsim(f"residual MaxSim, 1000 x 180 tokens, {bits} bit, {how}", 1000, 180, held) for bits, held in RESIDUAL.items()]
    cases = {
        "centroid scores, 65,536 x 128, 32 query tokens": scan,
        "candidates by their centroids, 4000 x 180 tokens, u16 ids": (4000 * 180 * 2 + 4000 * 4, 0.0),
        f"attention of a layer, 1000 x {PAIR} tokens, 768 wide": (tokens * (heads_in + hidden) * 2, 4 * tokens * PAIR * hidden),
        f"bias and GELU, {tokens:,} x 3072": (2 * tokens * 4 * hidden * 2 + 4 * hidden * 2, 0.0),
        f"residual and LayerNorm, {tokens:,} x 768": (3 * tokens * hidden * 2 + 2 * hidden * 2, 0.0),
        "classifier head, 1000 x 768": (1000 * hidden * 2 + hidden**2 * 2 + 1000 * 4, 2 * 1000 * hidden**2),
    }
    kernels = [Case("kernel", case.name, case.bytes, case.flops) for case in rows]
    return kernels + [Case("kernel", name, moved, flops) for name, (moved, flops) in cases.items()]


def predicted(cards: dict[str, Card]) -> list[dict[str, Any]]:
    """A row for each case and card."""
    found = []
    for case in [*latency_rows(), *kernel_rows()]:
        for name, card in cards.items():
            floor, binds = case.floor(card)
            row = {"group": case.group, "case": case.name, "card": name, "bytes": round(case.bytes), "flops": round(case.flops)}
            found.append(
                {**row, "floor_us": float(f"{floor:.4g}"), "bound_by": binds, "published_ms": case.published_ms, "predicted": True}
            )
    return found


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Cards in columns."""
    cards = list(dict.fromkeys(row["card"] for row in rows))
    lines = [f"| predicted floor | commonly quoted | bytes | {' | '.join(cards)} |", "|---|---|---|" + "---|" * len(cards)]
    for group, case in dict.fromkeys((row["group"], row["case"]) for row in rows):
        cells = {row["card"]: row for row in rows if (row["group"], row["case"]) == (group, case)}
        one = next(iter(cells.values()))
        label = case if group == "latency table" else f"kernel: {case}"
        quoted = "{}-{} ms".format(*one["published_ms"]) if one["published_ms"] else ""
        floors = [shown(cells[card]["floor_us"]) + ("*" if cells[card]["bound_by"] != "bytes" else "") for card in cards]
        lines.append(f"| {label} | {quoted} | {size(one['bytes'])} | {' | '.join(floors)} |")
    return "\n".join([*lines, "", f"{TITLE}; `*`: bound by tensor cores. The cards' figures are those of NVIDIA's data sheets."])


def size(n: float) -> str:
    return f"{n / 1e6:.3g} MB" if n < 1e9 else f"{n / 1e9:.3g} GB" if n < 1e12 else f"{n / 1e12:.3g} TB"


def shown(us: float) -> str:
    return f"{us:.3g} us" if us < 1000 else f"{us / 1000:,.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="a JSON list of rows on standard output, each with predicted: true")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="memory bandwidth of one more card")
    parser.add_argument("--tflops", type=float, metavar="TFLOP/S", help="its dense fp16 tensor throughput")
    parser.add_argument("--name", default="this card", help="what to call it")
    args = parser.parse_args(arguments)
    cards = dict(CARDS)
    if args.bandwidth is not None or args.tflops is not None:
        if not (args.bandwidth and args.tflops and args.bandwidth > 0 and args.tflops > 0):
            parser.error("a card is given by --bandwidth and --tflops, both above 0")
        cards[args.name] = Card(args.bandwidth, args.tflops)
    rows = predicted(cards)
    print(json_lines(rows) if args.json else markdown(rows))


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """A JSON list with a row on each line, so that a change of the committed file can be read."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"


if __name__ == "__main__":
    main()
