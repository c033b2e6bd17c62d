"""The command `rerank-engine`. It parses arguments, calls the library and prints; errors go to standard error with exit status 2.

Here is what all commands share, and the only place that prints; the commands stand in `commands/`, a module for each group.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__
from .errors import InputError, RerankError
from .progress import Progress

NO_TEXT = "no text"  # in place of a score: there was nothing to compare
Commands = Callable[[str, Callable[[argparse.Namespace], None], str], argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no reason to stop
    try:
        args.command(args)
        sys.stdout.flush()
    except RerankError as error:
        print(f"rerank-engine: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    except OSError as error:
        print(f"rerank-engine: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    from .commands import GROUPS

    top = argparse.ArgumentParser(prog="rerank-engine", description="Candidates in, the best order out.")
    top.add_argument("--version", action="version", version=f"rerank-engine {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.set_defaults(command=command)
        return sub

    for group in GROUPS:
        group.register(add)
    return top


class Bar:
    """A progress bar on standard error, where tqdm is installed. As a context it is off the line before anything else is printed.

    It counts from when it is made, but shows nothing before the first report: an error that comes first has its line to itself.
    """

    def __init__(self, unit: str) -> None:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            self.shown: Any = None
        else:
            self.shown = tqdm(unit=f" {unit}", file=sys.stderr, delay=1e-6)

    def __call__(self, done: int, total: int) -> None:
        if self.shown is None:
            return
        self.shown.total = total or None  # 0: not known
        self.shown.update(done - self.shown.n)
        if done == total:
            self.shown.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown is not None:
            self.shown.close()


def number(text: str) -> float:
    """The type of an option: a number, also with `_` or `,` between thousands. Raises ArgumentTypeError, which argparse tells."""
    try:
        return float(text.replace(",", "") if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", text.strip()) else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}; expected a number such as 1e6 or 256e9") from error


def require_text(name: str, text: str) -> None:
    if not text.strip():
        raise InputError(name, got="an empty text", expected="a question")


def say(text: object = "") -> None:
    """A line on standard output."""
    print(text)


def note(text: str) -> None:
    """A line on standard error, beside what a command prints."""
    print(text, file=sys.stderr)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> None:
    """Columns in the width of their longest cell; numbers to the right, the last column as it comes."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [
        all(row[i].replace(".", "", 1).lstrip("-").isdigit() or row[i] in ("", "-", NO_TEXT) for row in cells[1:])
        for i in range(len(header))
    ]
    for row in cells:
        line = "  ".join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(row, widths, numeric))
        print(line.rstrip())


def clip(text: str, width: int = 100, query: str = "") -> str:
    """One line of at most `width` characters: the start of the text, or where most of the query's words stand together."""
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    wanted = set(re.findall(r"\w{4,}", query.lower()))
    starts = [0, *(match.start() for match in re.finditer(r"\w+", line))] if wanted else [0]
    start = max(starts, key=lambda at: len(wanted & set(re.findall(r"\w+", line[at : at + width - 2].lower()))))
    head, rest = ("…" if start else ""), line[start:]
    return head + (rest if len(rest) <= width - len(head) else rest[: width - len(head) - 1] + "…")


if __name__ == "__main__":
    sys.exit(main())
