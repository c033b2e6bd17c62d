"""The kinds of index of `rerank-engine`: how one is told, which options it takes, by what model it is searched."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

BM25, TOKENS, VECTORS, IMPACTS = "BM25 index", "token index", "vector index", "impact index"
MADE_BY = {TOKENS: "tokens", VECTORS: "vectors", IMPACTS: "sparse"}  # the option of `index` that names its model

_MODELS = (TOKENS, VECTORS, IMPACTS)
INDEX_OPTIONS = {
    **dict.fromkeys(("analyzer", "variant", "k1", "b", "forward", "no_codes"), (BM25,)),
    "storage": (TOKENS,),
    **dict.fromkeys(("kind", "dim", "keep"), (VECTORS,)),
    "threads": _MODELS,
    **dict.fromkeys(("folder", "update"), (BM25, TOKENS, IMPACTS)),
}
SEARCH_OPTIONS = {
    **dict.fromkeys(("variant", "k1", "b", "rm3"), (BM25,)),
    **dict.fromkeys(("model", "threads"), _MODELS),
    "explain": (BM25, TOKENS, IMPACTS),
    "html": (TOKENS,),
}


def kind_at(path: str | Path) -> str:
    """Of the index in a file or folder. Raises FileFormatError for what is none."""
    from ..indexes import members, token_members, vector_files
    from ..indexes.files import kind_of, open_file
    from ..indexes.folder import Folder

    path = Path(path)
    if path.is_dir():
        settings: object = Folder.open(path, members).settings
        if isinstance(settings, dict) and "storage" in settings:
            return TOKENS
    else:
        found = {token_members.KIND: TOKENS, vector_files.KIND: VECTORS}.get(kind_of(path))
        if found is not None:
            return found
        settings = open_file(path, members.KIND).meta.get("settings")
    return IMPACTS if isinstance(settings, dict) and "impacts" in settings else BM25


def asked_kind(args: argparse.Namespace) -> str:
    """What `index` is to build. Raises InputError for models of two kinds."""
    asked = [kind for kind, option in MADE_BY.items() if getattr(args, option) is not None]
    if len(asked) > 1:
        raise InputError("index", got=" and ".join(f"--{MADE_BY[kind]}" for kind in asked), expected="one of them")
    return asked[0] if asked else BM25


def require_options(args: argparse.Namespace, kind: str, options: Mapping[str, tuple[str, ...]], building: bool) -> None:
    """Raises InputError for an option that indexes of this kind do not have."""
    for option, kinds in options.items():
        value = getattr(args, option)
        if value is None or value is False or kind in kinds:
            continue
        got, *others, last = (_told(one, building) for one in (kind, *kinds))
        expected = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"--{option.replace('_', '-')}", got=got, expected=f"{expected} with it")


def _told(kind: str, building: bool) -> str:
    """A kind with its article and, where one is built, the option that asks for it."""
    article = "an" if kind == IMPACTS else "a"
    return f"{article} {kind} (--{MADE_BY[kind]} MODEL)" if building and kind in MADE_BY else f"{article} {kind}"


def model_for(args: argparse.Namespace, made_by: Mapping[str, str] | None, kind: str) -> str:
    """The name of the model to search by: --model, or the one that made the index, if it is bundled or a folder here. Raises InputError."""
    from ..runtimes.files import BUNDLED

    own = (made_by or {}).get("model", "")
    if args.model is None and own not in BUNDLED and not os.path.isdir(own):  # a name in a file of others downloads nothing
        hint = f"It was made by '{own}'." if own else ""
        raise InputError("search", got=f"{_told(kind, False)} whose model is not at hand", expected="--model", hint=hint)
    return own if args.model is None else str(args.model)
