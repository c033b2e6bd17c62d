"""tantivy over text: one segment, whitespace tokenizer, term frequencies without positions.

Its lengths are rounded to one byte, so its scores are never exact. A hit is an address; while the index is one segment whose documents are
in the order of their arrival (checked after the build), the address's document number is the row: the least costly way to ids that it has
(`fast_field_values` makes a second pass over the addresses, `doc` reads the stored document).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tantivy

from benchmarks.corpora import Collection
from benchmarks.harness import verify
from benchmarks.peers.base import Peer

HEAP = 4_000_000_000  # bytes, the most that it takes: a segment is closed when this is full


class Tantivy(Peer):
    takes, exact = "text", False

    def __init__(self) -> None:
        self.made = tempfile.TemporaryDirectory()
        self.pool = ThreadPoolExecutor(2)

    def form(self, collection: Collection) -> list[str]:
        return list(collection.texts())

    def build(self, documents: list[str]) -> None:
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", stored=False, tokenizer_name="whitespace", index_option="freq")
        builder.add_unsigned_field("row", stored=False, fast=True)
        index = tantivy.Index(builder.build(), path=self.made.name)
        writer = self._with_tokenizer(index).writer(heap_size=HEAP, num_threads=1)
        for row, text in enumerate(documents):
            document = tantivy.Document()
            document.add_text("text", text)
            document.add_unsigned("row", row)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        self._use(index)
        self._check_rows(documents[0].split()[0])

    def save(self, folder: Path) -> None:
        shutil.copytree(self.made.name, folder, dirs_exist_ok=True)

    def open(self, folder: Path, mapped: bool = True) -> None:
        self._use(self._with_tokenizer(tantivy.Index.open(str(folder))))

    @staticmethod
    def _with_tokenizer(index: tantivy.Index) -> tantivy.Index:
        index.register_tokenizer("whitespace", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
        return index

    def _use(self, index: tantivy.Index) -> None:
        index.config_reader("manual")  # no thread that watches the folder
        index.reload()
        self.searcher, self.schema = index.searcher(), index.schema
        verify("tantivy: one segment", self.searcher.num_segments == 1)

    def ask(self, query: Sequence[int]) -> list[str]:
        return [f"t{term}" for term in query]

    def search(self, asked: list[str], k: int) -> Any:
        should, term, schema = tantivy.Occur.Should, tantivy.Query.term_query, self.schema
        query = tantivy.Query.boolean_query([(should, term(schema, "text", word, index_option="freq")) for word in asked])
        hits = self.searcher.search(query, limit=k, count=False).hits
        return [address.doc for _, address in hits], [score for score, _ in hits]

    def _check_rows(self, word: str) -> None:
        query = tantivy.Query.term_query(self.schema, "text", word, index_option="freq")
        addresses = [address for _, address in self.searcher.search(query, limit=1000, count=False).hits]
        verify("tantivy: rows", [a.doc for a in addresses] == self.searcher.fast_field_values("row", addresses))

    def batch(self, asked: Sequence[list[str]], k: int, threads: int) -> Any:
        return list(self.pool.map(lambda query: self.search(query, k), asked)) if threads == 2 else [self.search(q, k) for q in asked]
