"""Chooses tiles on a CUDA device and rewrites the table of kernels/config.py: `python -m benchmarks.tune [--apply] [--json]`.

For every entry of the table for this GPU's architecture: the time of a list of 1,000 candidates under a CUDA graph, for tiles around the
present ones; an answer that is wrong or does not compile is out. Prints a row for each entry; only --apply writes. Run `make kernels` after
it, which compiles the new forms for all targets.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rerank_kernels import config, maxsim
from rerank_kernels.config import TILES, Tiles
from rerank_kernels.launch import interpreting, target_of

from benchmarks import harness, on_gpu
from benchmarks.gpu_cases import Residual, Tokens, checked

CONFIG = Path(__file__).resolve().parents[1] / "kernels" / "config.py"
Key = tuple[str, str, int, int]


def candidates(now: Tiles) -> Iterator[Tiles]:
    """The present tiles, then the others. The query's tile stays: it is the bucket."""
    yield now
    for document, warps, stages, first in itertools.product((32, 64, 128), (2, 4, 8), (2, 3, 4), (True, False)):
        if document >= 16 * warps // 2 and (found := Tiles(document, now.query, warps, stages, first)) != now:
            yield found


def calls_of(key: Key) -> tuple[list[Any], Any]:
    """(the calls that an entry of the table serves, what the first must give)"""
    _, kind, dim, query = key
    residual = re.fullmatch(r"residual(\d)-(\w+)", kind)
    store = Tokens(
        1000,
        180,
        dim=dim or (256 if residual else 512),
        query_tokens=query or 128,
        kind="fp16" if residual else kind,
        device=on_gpu.device(),
    )
    if residual is None:
        return store.ours(), store.exact(store.rows[0])
    case = Residual(store, int(residual[1]))
    return case.ours(residual[2]), case.exact(store.rows[0])


def best_of(key: Key, rounds: int) -> dict[str, Any]:
    calls, exact = calls_of(key)
    times: dict[Tiles, float] = {}
    for tiles in candidates(TILES[key]):
        put(key, tiles)
        try:
            if checked(f"{key} {tiles}", calls[0](), exact, 5e-3):
                side = on_gpu.Side("ours", calls)
                times[tiles] = sorted(side.us() for _ in range(rounds))[rounds // 2]
        except Exception as error:  # out of shared memory or registers: the compiler has a class for each
            harness.note(f"{key} {tiles}: {type(error).__name__}: {error}")
    now = next(iter(times))
    best = min(times, key=times.__getitem__)
    best = best if times[best] < 0.98 * times[now] else now  # within the noise, things stay
    put(key, best)
    return {"key": list(key), "tiles": repr(best), "us": times[best], "before_us": times[now], "device": torch.cuda.get_device_name()}


def put(key: Key, tiles: Tiles) -> None:
    TILES[key] = tiles
    config.tiles.cache_clear()
    maxsim.constants.cache_clear()


def rewritten(source: str, table: dict[Key, Tiles]) -> str:
    """The text of config.py with this table between its markers."""
    lines = []
    for (target, kind, dim, query), t in table.items():
        numbers = f"{t.document}, {t.query}, {t.warps}, {t.stages}, {t.document_first}"
        lines.append(f'    ("{target}", "{kind}", {dim}, {query}): Tiles({numbers}),')
    head, rest = source.split("# BEGIN TILES\n")
    tail = rest.split("# END TILES\n")[1]
    body = "\n".join(["TILES: dict[tuple[str, str, int, int], Tiles] = {", *lines, "}"])
    return f"{head}# BEGIN TILES\n{body}\n# END TILES\n{tail}"


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--apply", action="store_true", help="write the table into kernels/config.py")
    args = parser.parse_args()
    if not torch.cuda.is_available() or interpreting():
        sys.exit("benchmarks.tune: no CUDA device, or TRITON_INTERPRET is set. Tiles are chosen by a clock, which needs a GPU.")
    target = target_of(on_gpu.device())
    if target not in config.TARGETS:
        sys.exit(f"benchmarks.tune: the table has no rows of {target}'s own. Expected one of {', '.join(config.TARGETS)}.")
    rows = [best_of(key, 5 if args.quick else 15) for key in list(TILES) if key[0] == target]
    if args.apply:
        CONFIG.write_text(rewritten(CONFIG.read_text(), TILES))
    lines = [f"{' '.join(map(str, row['key'])):<36}{row['before_us']:>9.1f}{row['us']:>9.1f} us  {row['tiles']}" for row in rows]
    print(json.dumps(rows, indent=1) if args.json else "\n".join(lines))


if __name__ == "__main__":
    main()
