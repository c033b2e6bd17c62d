"""The rows of bench_bm25.py about one collection."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import open_cost, oracle, peers
from benchmarks.corpora import CACHE, Collection
from benchmarks.harness import Row, note, row, verify
from benchmarks.peers.base import Peer
from benchmarks.peers.ours import Ours
from benchmarks.single_pass import Times, compared, in_turns, linear_cost, single_pass

CHECKED = 8  # queries of a set that are held against the float64 answer
MIN_OVERLAP = 0.9  # with it, of a peer with another formula


class Bench:
    """Our index and the peers' over one collection, ready to be searched."""

    def __init__(self, collection: Collection, names: Sequence[str], cases: Sequence[str], *, n_queries: int, budget_s: float) -> None:
        self.collection, self.budget_s = collection, budget_s
        self.queries = {kind: queries[:n_queries] for kind, queries in collection.queries.items()}
        self.more = {"documents": len(collection.documents)}
        self.built: dict[str, float] = {}
        self.peers: dict[str, Peer] = {}
        self.folders: dict[str, Path] = {}
        for name in names:
            if (peer := peers.load(name)) is not None:
                self._prepare(peer, fresh="build" in cases)
        ours = self.peers.pop("ours")
        assert isinstance(ours, Ours)
        self.ours = ours
        self.checker = {kind: oracle.Oracle(collection, [query for query in queries[:CHECKED]]) for kind, queries in self.queries.items()}

    def _prepare(self, peer: Peer, fresh: bool) -> None:
        shared = self.folders.get(peer.index_of or "")
        folder = shared or CACHE / "indexes" / f"{self.collection.name}-{peer.name}"
        if (ms := prepare(peer, self.collection, folder, fresh=fresh and shared is None)) is not None:
            self.built[peer.name] = ms
        self.peers[peer.name], self.folders[peer.name] = peer, folder

    def builds(self) -> Iterator[Row]:
        for name, ms in self.built.items():
            if name != "ours":
                ratio = ms / self.built["ours"]
                yield row("bm25", "build", name, "cpu_ms", self.built["ours"], ms, [ratio] * 2, **self.more, input=self.peers[name].takes)

    def sizes(self) -> Iterator[Row]:
        postings = self.collection.n_postings
        for name, peer in self.peers.items():
            theirs = peer.size(self.folders[name])
            for what, ours in self.ours.sizes().items():
                each = {"bytes_per_posting": [round(ours / postings, 3), round(theirs / postings, 3)], "of_ours": what}
                yield row("bm25", "size", name, "bytes", ours, theirs, [theirs / ours] * 2, **self.more, **each)

    def opens(self, times: int) -> Iterator[Row]:
        ours = open_cost.in_a_process("ours", self.folders["ours"], times)
        for name in self.peers if ours else ():
            theirs = open_cost.in_a_process(name, self.folders[name], times)
            for metric in ours if ours and theirs else ():
                a, b = max(ours[metric], 1e-3), max(theirs[metric], 1e-3)
                yield row("bm25", "open", name, metric, a, b, [b / a] * 2, **self.more)

    def overheads(self) -> Iterator[Row]:
        small = self.collection.first(min(1000, len(self.collection.documents)))
        found: dict[str, Times] = {}
        for name in ("ours", *self.peers):
            if (peer := peers.load(name)) is None or type(peer).native is Peer.native:
                continue
            peer.build(peer.form(small))
            asked = [peer.ask(query) for query in self.queries["nat"]]
            calls = [peer.native(one, 10) for one in asked]
            peer.search(asked[0], 10), calls[0]()  # compiled before it is timed
            sides = {"python": lambda i: peer.search(asked[i], 10), "native": lambda i: calls[i]()}  # noqa: B023
            times = single_pass(sides, len(asked), self.budget_s)
            found[name] = (times["python"] - times["native"]) * 1e3
        for name in list(found)[1:]:
            a, b = (float(np.median(found[side])) for side in ("ours", name))
            yield row("bm25", "overhead", name, "cpu_us", a, b, [b / a] * 2, documents=len(small.documents))

    def searches(self, cases: Sequence[str], cost: bool) -> Iterator[Row]:
        times: dict[str, dict[str, Times]] = {}
        for case in cases:
            kind, k = case.split("@")
            overlaps = self._check(case)
            sides = {peer.name: self._side(peer, kind, int(k)) for peer in (self.ours, *self.peers.values()) if peer.name in overlaps}
            times[case] = single_pass(sides, len(self.queries[kind]), self.budget_s)
            for name in list(sides)[1:]:
                found = compared(times[case]["ours"], times[case][name])
                how = {} if overlaps[name] is None else {"overlap": overlaps[name]}
                yield row("bm25", case, name, "cpu_ms", **found, **how, **self.more)
        for k in (10, 1000):
            if cost and f"nat@{k}" in times and f"freq@{k}" in times:
                yield from self._costs(k, times)

    def _side(self, peer: Peer, kind: str, k: int) -> Any:
        asked, search = [peer.ask(query) for query in self.queries[kind]], peer.search
        return lambda i: search(asked[i], k)

    def _check(self, case: str) -> dict[str, float | None]:
        """The peers whose answers are right, each with its overlap where it is held to that; ours must be."""
        kind, k = case.split("@")
        right: dict[str, float | None] = {}
        for peer in (self.ours, *self.peers.values()):
            queries = self.queries[kind][:CHECKED]
            answers = [peer.answer(peer.search(peer.ask(query), int(k))) for query in queries]
            wanted = [self.checker[kind].scores(query) for query in queries]
            if peer.exact:
                ok = all(oracle.is_exact(a, w, int(k), ordered=peer is self.ours) for a, w in zip(answers, wanted))
                verify(f"{peer} {case}", ok or peer is not self.ours)
            else:
                share = float(np.mean([oracle.overlap(a, w, int(k)) for a, w in zip(answers, wanted)]))
                ok = share >= MIN_OVERLAP
            if ok:
                right[peer.name] = None if peer.exact else round(share, 4)
            else:
                note(f"not timed: {peer} {case}, {'its answer is wrong' if peer.exact else f'its overlap is {share:.3f}'}")
        return right

    def _costs(self, k: int, times: dict[str, dict[str, Times]]) -> Iterator[Row]:
        fits = {}
        for name in times[f"nat@{k}"]:
            both = [(kind, times[f"{kind}@{k}"].get(name, np.empty(0))) for kind in ("nat", "freq")]
            postings = np.array([self.collection.postings(self.queries[kind][i]) for kind, ms in both for i in range(len(ms))])
            fits[name] = linear_cost(np.concatenate([ms for _, ms in both]), postings)
        (fixed, each), fit = fits.pop("ours")
        for name, ((fixed_theirs, each_theirs), fit_theirs) in fits.items():
            if min(each, each_theirs) <= 0:
                note(f"no cost of a posting: {name} at {k} does not grow with them")
                continue
            more = {"fixed_ms": [round(fixed, 5), round(fixed_theirs, 5)], "r2": [round(fit, 3), round(fit_theirs, 3)], **self.more}
            ratio = each_theirs / each
            yield row("bm25", f"cost@{k}", name, "ns_per_posting", each * 1e6, each_theirs * 1e6, [ratio] * 2, **more)

    def batches(self, k: int = 1000, n_batches: int = 10) -> Iterator[Row]:
        """On 2 threads; ours on 1 is a side too. A peer without threads of its own is left out."""
        for kind, queries in self.queries.items():
            sides: dict[str, Any] = {"ours": (self.ours, 2), "ours-1-thread": (self.ours, 1)}
            sides.update({name: (peer, 2) for name, peer in self.peers.items() if type(peer).batch is not Peer.batch})
            sides.pop("bm25s-numpy", None)  # a hundred times slower than the others
            size = max(1, len(queries) // n_batches)
            chunks = [queries[i : i + size] for i in range(0, len(queries), size)]
            calls = {name: self._batch(peer, k, threads) for name, (peer, threads) in sides.items()}
            for call in calls.values():
                call(queries[:2])  # threads started, functions compiled
            times = in_turns(calls, chunks)
            for name in list(sides)[1:]:
                found = compared(times["ours"], times[name])
                found["batches"] = found.pop("queries")
                per_second = [round(1e3 / found[side], 1) for side in ("ours", "theirs")]
                more = {"threads": 2, "queries_per_s": per_second, **self.more}
                yield row("bm25", f"batch2-{kind}@{k}", name, "wall_ms", **found, **more)

    def _batch(self, peer: Peer, k: int, threads: int) -> Any:
        return lambda queries: peer.batch([peer.ask(query) for query in queries], k, threads)


def prepare(peer: Peer, collection: Collection, folder: Path, *, fresh: bool = False) -> float | None:
    """Opens the index that a peer keeps in the folder, or builds it and keeps it there: ms of processor time, without what `form` takes.

    Ours is always built, since it may have changed; a peer's, where it is not there or `fresh`.
    """
    if not fresh and peer.name != "ours" and folder.is_dir():
        peer.open(folder, mapped=False)
        return None
    documents = peer.form(collection)
    start = time.process_time()
    peer.build(documents)
    ms = (time.process_time() - start) * 1e3
    note(f"{peer.name}: built in {ms / 1e3:.1f} s of processor time")
    partial = folder.with_name(folder.name + ".partial")
    for old in (partial, folder):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    peer.save(partial)
    partial.rename(folder)
    return ms
