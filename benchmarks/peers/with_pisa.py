"""PISA by pyterrier-pisa (extra [pisa]; wheels for Linux on x86-64), over text, on one thread.

Called below pyterrier's data frames, which cost more than the search. Its idf is Robertson's, so its order differs a little. "pisa" scores
in float32 with block-max MaxScore; "pisa-u8" adds impacts that were quantised to 8 bits beforehand, with MaxScore: its fastest ways here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyterrier_pisa

from benchmarks.corpora import Collection
from benchmarks.peers.base import K1, B, Peer


class Pisa(Peer):
    takes, exact = "text", False
    algorithm, quantized = "block_max_maxscore", False

    def __init__(self) -> None:
        self.made = tempfile.TemporaryDirectory()

    def form(self, collection: Collection) -> list[dict[str, str]]:
        return [{"docno": str(row), "text": text} for row, text in enumerate(collection.texts())]

    def build(self, documents: list[dict[str, str]]) -> None:
        folder = Path(self.made.name) / "index"
        self._index(folder).index(iter(documents))
        self.open(folder)  # which compresses the lists when it is first done

    def save(self, folder: Path) -> None:
        shutil.copytree(Path(self.made.name) / "index", folder, dirs_exist_ok=True)

    def open(self, folder: Path, mapped: bool = True) -> None:
        made = self._index(folder).bm25(k1=K1, b=B, query_algorithm=self.algorithm, precompute_impact=self.quantized, threads=1)
        self.retriever, self.context = made, made._ctxt

    def size(self, folder: Path) -> int:
        lists = f"bm25.*.q{int(self.quantized)}.*"  # with the block maxima; the inverted file that they were made from is not read again
        return sum(path.stat().st_size for pattern in ("fwd.termlex", "fwd.doclex", lists) for path in folder.glob(pattern))

    @staticmethod
    def _index(folder: Path) -> Any:
        return pyterrier_pisa.PisaIndex(str(folder), text_field="text", stemmer="none", stops="none", threads=1, batch_size=100_000)

    def ask(self, query: Sequence[int]) -> str:
        return " ".join(f"t{term}" for term in query)

    def search(self, asked: str, k: int) -> Any:
        names, scores = np.empty(k, object), np.empty(k, np.float32)
        found = pyterrier_pisa._pisathon.retrieve(
            self.context,
            self.algorithm,
            [(0, asked)],
            k=k,
            threads=1,
            query_weighted=0,
            pretokenised=False,
            result_qidxs=np.empty(k, np.int32),
            result_docnos=names,
            result_ranks=np.empty(k, np.int32),
            result_scores=scores,
        )
        return names[:found], scores[:found]

    def answer(self, found: Any) -> Any:
        return super().answer((found[0].astype(np.int64), found[1]))


class PisaQuantized(Pisa):
    index_of, algorithm, quantized = "pisa", "maxscore", True
