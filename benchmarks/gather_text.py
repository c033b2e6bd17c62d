"""Real passages of about 60 words from what a machine has, for `bench_bm25 --real`: `python -m benchmarks.gather_text OUT.txt FOLDER...`

Of every folder, with those below: docstrings of .py, manual pages (a section in the suffix), .txt, .md, .rst and .html; compressed or not.
What it finds differs from machine to machine: figures from it hold for a run and are not to be compared across machines.
"""

from __future__ import annotations

import ast
import gzip
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

WORDS, FEWEST, LARGEST_FILE = 60, 12, 3_000_000
PAGE, TEXT, MARKUP = re.compile(r"\.[1-8][a-z]*$"), (".txt", ".md", ".rst", ".html"), re.compile(r"<[^>]+>")
ROFF = re.compile(r"^[.'].*?(\s|$)|\\f.|\\-|\\&", re.MULTILINE)


def texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        name = path.name.removesuffix(".gz")
        kind = Path(name).suffix
        if not (kind == ".py" or kind in TEXT or PAGE.search(name)) or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size > LARGEST_FILE:
            continue
        raw = path.read_bytes()
        try:
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode(errors="replace")
        except (OSError, EOFError):
            continue
        if kind == ".py":
            yield from docstrings(text)
        else:
            yield MARKUP.sub(" ", text) if kind == ".html" else ROFF.sub("", text) if PAGE.search(name) else text


def docstrings(code: str) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in other people's code
            nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""


def passages(text: str) -> Iterator[str]:
    """Whole paragraphs up to WORDS words; a longer one is cut."""
    words: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        words += paragraph.split()
        while len(words) >= WORDS:
            yield " ".join(words[:WORDS])
            words = words[WORDS:]
        if len(words) > WORDS // 2:
            yield " ".join(words)
            words = []
    yield " ".join(words)


def main(out: str, *folders: str) -> None:
    seen: set[int] = set()
    with open(out, "w") as file:
        for text in (text for folder in folders for text in texts(Path(folder))):
            for passage in passages(text):
                if passage.count(" ") + 1 >= FEWEST and (key := hash(passage)) not in seen:
                    seen.add(key)
                    file.write(passage + "\n")
    print(f"{len(seen)} passages", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
