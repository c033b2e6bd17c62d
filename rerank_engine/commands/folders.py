"""Indexes in folders, which take more documents later, for `rerank-engine index`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import cli
from ..corpus import Document
from ..errors import InputError


def is_filled(args: argparse.Namespace, settings: bool) -> bool:
    """Whether the folder is an index already, which keeps its settings."""
    exists = Path(args.output).is_dir() and any(Path(args.output).iterdir())
    if exists and settings:
        raise InputError("INDEX", got="an index that is there, and settings for a new one", expected="no settings, or a new folder")
    return exists


def add_documents(target: Any, documents: Iterable[Document], args: argparse.Namespace, exists: bool) -> None:
    """To an index in a folder, which goes again if this fails and it was not there before."""
    try:
        with cli.Bar("documents") as progress:
            (target.update if args.update else target.add)(documents, progress=progress)
            target.commit()
    except BaseException:
        if not exists:
            shutil.rmtree(args.output, ignore_errors=True)
        raise
