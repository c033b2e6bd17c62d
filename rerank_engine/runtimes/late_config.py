"""What the files of a late-interaction model say of it: those of colbert-ai, and those of PyLate and sentence-transformers."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CorruptModelError, InputError, UnsupportedModelError

# Our names of the settings, by those in PyLate's config_sentence_transformers.json and in colbert-ai's artifact.metadata
PYLATE = {
    "query_prefix": "query_prefix",
    "document_prefix": "document_prefix",
    "query_length": "query_length",
    "document_length": "document_length",
    "do_query_expansion": "expand",
    "attend_to_expansion_tokens": "attend",
    "skiplist_words": "skiplist",
}
COLBERT = {
    "query_token_id": "query_prefix",
    "doc_token_id": "document_prefix",
    "query_maxlen": "query_length",
    "doc_maxlen": "document_length",
    "attend_to_mask_tokens": "attend",
    "dim": "dim",
}
MARKERS = {"query_prefix": "[unused0]", "document_prefix": "[unused1]"}  # of colbert-ai, where its files tell none
_SETTINGS = ("query_prefix", "document_prefix", "query_length", "document_length", "expand", "attend", "skiplist", "skip_first")


def read_json(path: Path, kind: type = dict) -> Any:
    """The content of a JSON file, a dict or a list as `kind` says; an empty one if there is no such file. Raises CorruptModelError."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: brackets nested thousands deep
        raise CorruptModelError(str(path), got=f"a file that does not parse ({error})", expected="JSON") from error
    if not isinstance(content, kind):
        raise CorruptModelError(str(path), got=f"JSON that is a {type(content).__name__}", expected=f"a {kind.__name__}")
    return content


@dataclass(frozen=True, slots=True, eq=False)
class LateConfig:
    """How a model of late interaction reads texts.

    query_prefix, document_prefix: marker tokens, put behind the first token; "" for none. query_length: tokens, with marker and special
    tokens, that a query is filled up to with [MASK], where `expand`; attend: whether the other tokens look at those.
    document_length: tokens of a document with its marker and special tokens, at most. skiplist: tokens of documents that are encoded and
    then left out of the score; with skip_first, texts whose first token is. lower: texts are turned to lower case first.
    """

    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = 32
    document_length: int = 180
    expand: bool = True
    attend: bool = False
    skiplist: tuple[str, ...] = tuple(string.punctuation)
    skip_first: bool = False
    lower: bool = False

    def __post_init__(self) -> None:
        kinds = (("query_prefix", str), ("document_prefix", str), ("expand", bool), ("attend", bool), ("skip_first", bool), ("lower", bool))
        for name, kind in kinds:
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"late interaction: {name}", got=getattr(self, name), expected=f"a {kind.__name__}")
        for name in ("query_length", "document_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 4 <= value < 1 << 20:
                raise InputError(f"late interaction: {name}", got=value, expected="a number of tokens, from 4")
        if not isinstance(self.skiplist, (tuple, list)) or not all(isinstance(word, str) for word in self.skiplist):
            raise InputError("late interaction: skiplist", got=self.skiplist, expected="a sequence of tokens")
        object.__setattr__(self, "skiplist", tuple(self.skiplist))


def late_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says under our names; {} for a model that is none of late interaction.

    Besides the settings of LateConfig: "dense", the folders of its Dense modules or "root", and "dim", that of the vectors.
    Where a folder has the files of both, PyLate's go first; what they lack it takes, for colbert-ai's layer alone, from artifact.metadata.
    Raises CorruptModelError, UnsupportedModelError.
    """
    told = read_json(folder / "config_sentence_transformers.json")
    stanford = config.get("architectures") == ["HF_ColBERT"]
    pylate = told.get("similarity_fn_name") == "MaxSim" or {"query_prefix", "document_prefix"} <= set(told)
    if not pylate and not stanford and not (folder / "artifact.metadata").is_file():
        return {}
    modules = [m for m in read_json(folder / "modules.json", list) if isinstance(m, dict)]
    dense = [str(m.get("path")) for m in modules if str(m.get("type")).split(".")[-1] == "Dense"]
    settings: dict[str, Any] = {"dense": dense or (["root"] if stanford else [])}
    if pylate:
        _refuse_prompt(folder, told)
        settings["lower"] = read_json(folder / "sentence_bert_config.json").get("do_lower_case", False)
        if settings["dense"] == ["root"]:
            settings.update(MARKERS)
            settings.update(_named(COLBERT, read_json(folder / "artifact.metadata")))
            settings.pop("dim", None)  # PyLate asks the weights
        return {**settings, **_named(PYLATE, told)}
    meta = read_json(folder / "artifact.metadata")
    # "l2" was for training: colbert-ai itself searches such a model by the product of its unit vectors, which has the same order.
    if meta.get("similarity", "cosine") not in ("cosine", "l2") or meta.get("interaction", "colbert") != "colbert":
        got = f"similarity {meta.get('similarity')!r} and interaction {meta.get('interaction')!r}"
        raise UnsupportedModelError(str(folder / "artifact.metadata"), got=got, expected="'cosine' and 'colbert'")
    settings.update({**MARKERS, "document_length": 220, "skip_first": True, **_named(COLBERT, meta)})
    return {**settings, "skiplist": list(string.punctuation) if meta.get("mask_punctuation", True) else []}


def _named(names: Mapping[str, str], told: Mapping[str, Any]) -> dict[str, Any]:
    return {ours: told[theirs] for theirs, ours in names.items() if told.get(theirs) is not None}


def _refuse_prompt(folder: Path, told: Mapping[str, Any]) -> None:
    prompts = told.get("prompts")
    if isinstance(prompts, dict) and prompts.get(told.get("default_prompt_name")):
        got = f"a default prompt, '{told['default_prompt_name']}'"
        raise UnsupportedModelError(str(folder / "config_sentence_transformers.json"), got=got, expected="markers alone")


def late_config(name: str, settings: Mapping[str, Any], options: Mapping[str, Any], limit: int) -> LateConfig:
    """The settings of `late_settings`, with the caller's options over them.

    limit: tokens that the model reads. Lengths of the files beyond it come down to it, since a tokenizer may say less than they do; those
    of the caller raise InputError. Raises CorruptModelError for settings that are none.
    """
    told = {key: settings[key] for key in (*_SETTINGS, "lower") if key in settings}
    try:
        config = LateConfig(**told)
    except InputError as error:  # the file's fault
        raise CorruptModelError(f"model '{name}'", got=error.message, expected="settings of late interaction") from error
    if isinstance(dim := settings.get("dim", 1), bool) or not isinstance(dim, int) or dim < 1:
        raise CorruptModelError(f"model '{name}': dim", got=dim, expected="the number of dimensions")
    config = replace(config, query_length=min(config.query_length, limit), document_length=min(config.document_length, limit))
    config = replace(config, **options)
    for key in ("query_length", "document_length"):
        if getattr(config, key) > limit:
            raise InputError(f"model '{name}': {key}", got=getattr(config, key), expected=f"at most {limit}, the model's limit")
    return config
