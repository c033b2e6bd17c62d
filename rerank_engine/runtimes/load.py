"""`rr.load`: a model, ready to use. What it is, its own config decides, never a piece of its name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CorruptModelError, InputError, UnsupportedModelError
from .files import ModelFiles, resolve
from .late_config import late_config, read_json
from .projection import read_projections
from .prompts import PROMPTS
from .t5 import seq2seq_of
from .tokenize import Tokenizer

if TYPE_CHECKING:
    from ..stages.colbert import ColBERT
    from ..stages.cross import CrossEncoder
    from ..stages.dense import BiEncoder
    from ..stages.seq2seq import MonoT5, PairwiseT5, RankT5
    from ..stages.splade import SparseEncoder
    from .base import Runtime

ENCODERS = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra", "MPNet", "DebertaV2", "ModernBert", "New")
DECODERS = ("Qwen2", "Qwen3")
MASKED = tuple(f"{encoder}ForMaskedLM" for encoder in ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "ModernBert"))
FAMILIES: dict[str, str] = {
    **{f"{encoder}ForSequenceClassification": "cross-encoder" for encoder in (*ENCODERS, *DECODERS)},
    **{f"{encoder}Model": "bi-encoder" for encoder in ENCODERS},
    **dict.fromkeys(MASKED, "sparse encoder"),
}
OPTIONS = {
    "cross-encoder": ("label", "long", "window", "stride", "aggregate", "cache", "prompt"),
    "bi-encoder": ("pooling", "normalize", "query_prompt", "document_prompt"),
    "sparse encoder": ("query_prompt", "document_prompt"),
    "seq2seq": ("prompt", "answers", "long", "cache"),
    "late interaction": ("query_prefix", "document_prefix", "query_length", "document_length", "expand", "attend", "skiplist"),
}
CHOOSERS = tuple(f"{decoder}ForCausalLM" for decoder in DECODERS)  # re-rankers by the tokens for yes and no
# Re-rankers' as well as others': named so that the error can say what is missing.
ENCODERS_ALONE = ("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel", "T5ForSequenceClassification", "MT5ForSequenceClassification")
# Tokens of one input: a T5 knows distances and no places, so that what it was trained with is no limit; its biases are heads * tokens^2.
MOST_OF_T5 = 2048
SHORTEST = 8  # tokens of one input: below, special tokens leave no room for a query and a document
# These count positions from pad_token_id + 1, which takes that many off the longest input.
POSITION_OFFSET = ("roberta", "xlm-roberta", "camembert", "mpnet")


def load(
    path_or_name: str | Path,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    file: str | None = None,
    **options: Any,
) -> CrossEncoder | BiEncoder | ColBERT | SparseEncoder | MonoT5 | RankT5 | PairwiseT5:
    """Loads a cross-encoder, a bi-encoder, a sparse encoder, a seq2seq or a late-interaction model from a folder, a bundled name or a hub
    name holding ONNX or .safetensors (a sparse encoder: the latter), tokenizer.json and config.json.

    runtime: "onnx" | "torch" | "tensorrt"; device: "cpu" | "cuda"; precision: "auto" | "float32" | "float16" | "bfloat16": see
    runtimes.network for what "auto" takes.
    threads: for the CPU, None = what this process may use. max_length: tokens of one input, at most the model's limit, the default; of a
    T5, which has none, 512 by default.
    revision, file: see `runtimes.files.resolve`. options go to the family. A cross-encoder: `label=`, `long=`, `window=`, `stride=`,
    `aggregate=`, `cache=` (see stages.CrossEncoder), and of a decoder `prompt=`, a Prompt or its name (see runtimes.prompts). A bi-encoder:
    `pooling=`, `normalize=`, `query_prompt=`, `document_prompt=`. A sparse encoder: the last two (its weights are pruned where it encodes).
    A T5, mT5 or UMT5: `prompt=` "monot5", "rankt5", "duot5" or a T5Prompt, which decides what it becomes (see runtimes.t5_prompts),
    `answers=`, other tokens than the prompt's, `long=`, and but for "duot5" `cache=`.
    Late interaction: `query_prefix=`, `document_prefix=`, `query_length=`, `document_length=`, `expand=`, `attend=`, `skiplist=` (see
    runtimes.late_config.LateConfig), over what the model's files say.
    Raises UnknownModelError, UnsupportedModelError, CorruptModelError, UnsafeModelError, BackendUnavailable, MissingDependency, InputError.
    """
    files = resolve(path_or_name, revision=revision, file=file)
    family = _family(files, options.get("prompt"))
    if unknown := sorted(set(options) - set(OPTIONS[family])):
        raise InputError(f"model '{files.name}', a {family}: options", got=", ".join(unknown), expected=", ".join(OPTIONS[family]))
    tokenizer = _tokenizer(files, max_length, MOST_OF_T5 if family == "seq2seq" else None)
    from .network import open_network

    how: dict[str, Any] = {"runtime": runtime, "device": device, "precision": precision, "threads": threads, "pad_id": _pad(files)}
    if family == "seq2seq":
        return _seq2seq(files, tokenizer, how, options)
    how |= {"limit": tokenizer.max_length, "pack": family == "cross-encoder"}
    if family == "cross-encoder":
        return _cross(files, tokenizer, how, options)
    if family == "sparse encoder":
        return _sparse(files, tokenizer, how, options)
    session = open_network(files, **how)
    if family == "late interaction":
        return _late(files, session, tokenizer, options)
    from ..stages.dense import BiEncoder

    told = {key: getattr(files, key) for key in OPTIONS[family]}
    encoder = BiEncoder(session, tokenizer, name=files.name, **{**told, **options})
    if files.other_modules and encoder.pooling != "model":
        got, hint = ", ".join(files.other_modules), "Export it as a whole, with the output sentence_embedding."
        raise UnsupportedModelError(f"model '{files.name}': modules.json", got=got, expected="Transformer, Pooling, Normalize", hint=hint)
    return encoder


def _tokenizer(files: ModelFiles, max_length: int | None, most: int | None = None) -> Tokenizer:
    """most: what max_length may be, where that is more than the default."""
    limit = _limit(files)
    most = limit if most is None else max(limit, most)
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or not SHORTEST <= max_length <= most):
        raise InputError("max_length", got=max_length, expected=f"an integer from {SHORTEST} to {most}, the model's limit")
    if not (files.folder / "tokenizer.json").is_file():
        hint = "AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER) writes one."
        raise CorruptModelError(f"model '{files.name}'", got=f"no tokenizer.json in {files.folder}", expected="one", hint=hint)
    tokenizer, vocabulary = Tokenizer(files.folder / "tokenizer.json", max_length or limit), _whole(files, "vocab_size")
    if vocabulary is not None and tokenizer.vocabulary_size > vocabulary:
        got = f"a tokenizer with {tokenizer.vocabulary_size} tokens for {vocabulary} embeddings"
        raise CorruptModelError(f"model '{files.name}'", got=got, expected="the tokenizer that belongs to the model")
    return tokenizer


def _cross(files: ModelFiles, tokenizer: Tokenizer, how: dict[str, Any], options: dict[str, Any]) -> CrossEncoder:
    from ..stages.cross import CrossEncoder
    from .network import open_network
    from .prompts import PromptTokenizer, prompt_of

    options = dict(options)
    if (asked := options.pop("prompt", None)) is None:
        return CrossEncoder(open_network(files, **how), tokenizer, name=files.name, folder=files.folder, **options)
    prompt = prompt_of(asked)
    choice = prompt.choice(tokenizer) if _architecture(files, CHOOSERS) else None
    pairs = PromptTokenizer(tokenizer, prompt)
    return CrossEncoder(open_network(files, **how, choice=choice), tokenizer, name=files.name, folder=files.folder, pairs=pairs, **options)


def _seq2seq(files: ModelFiles, tokenizer: Tokenizer, how: dict[str, Any], options: dict[str, Any]) -> MonoT5 | RankT5 | PairwiseT5:
    from ..stages.seq2seq import MonoT5, PairwiseT5, RankT5
    from .network import open_seq2seq
    from .t5_prompts import t5_prompt

    options = dict(options)
    prompt = t5_prompt(
        options.pop("prompt"), options.pop("answers", None), multilingual=seq2seq_of(files.config) != "T5ForConditionalGeneration"
    )
    made: Any = PairwiseT5 if len(prompt.documents) == 2 else MonoT5 if len(prompt.answers or ()) == 2 else RankT5
    if made is PairwiseT5 and "cache" in options:
        raise InputError("cache", got=options["cache"], expected="none: comparisons of a duoT5 are not kept")
    answers = prompt.tokens(tokenizer)
    loaded: MonoT5 | RankT5 | PairwiseT5 = made(open_seq2seq(files, answers, **how), tokenizer, name=files.name, prompt=prompt, **options)
    return loaded


def _sparse(files: ModelFiles, tokenizer: Tokenizer, how: dict[str, Any], options: dict[str, Any]) -> SparseEncoder:
    """By the weights alone: what an ONNX file would give is a logit of every token for all of the vocabulary."""
    from ..stages.splade import SparseEncoder
    from .network import open_network

    if files.weights is None:
        hint = "save_pretrained(FOLDER) of the model writes them."
        raise UnsupportedModelError(f"model '{files.name}'", got="an ONNX file alone", expected="its .safetensors", hint=hint)
    if other := [module for module in files.other_modules if module not in ("MLMTransformer", "SpladePooling")]:
        expected = "MLMTransformer, SpladePooling"
        raise UnsupportedModelError(f"model '{files.name}': modules.json", got=", ".join(other), expected=expected)
    network = open_network(replace(files, onnx=None), **how)
    told = {key: getattr(files, key) for key in OPTIONS["sparse encoder"]}
    return SparseEncoder(network, tokenizer, name=files.name, **{**told, **options})


def _late(files: ModelFiles, session: Runtime, tokenizer: Tokenizer, options: dict[str, Any]) -> ColBERT:
    from ..stages.colbert import ColBERT, states_width

    config = late_config(files.name, files.late, options, tokenizer.max_length)
    dense, told = files.late["dense"], {"hidden": _whole(files, "hidden_size"), "dim": files.late.get("dim")}
    width = states_width(session, tokenizer, files.name) if dense or told["dim"] is not None else 0
    projections = read_projections(files.name, files.folder, dense, width, **told) if width else ()
    special = {**read_json(files.folder / "special_tokens_map.json"), **read_json(files.folder / "tokenizer_config.json")}
    mask, end, unknown = (_content(special.get(key)) for key in ("mask_token", "eos_token", "unk_token"))
    filler = mask or end or "[MASK]"
    return ColBERT(session, tokenizer, config, name=files.name, projections=projections, mask_token=filler, unknown_token=unknown)


def _content(token: Any) -> str | None:
    """A special token is written as a string, or as a dict that tells more of it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _architecture(files: ModelFiles, known: Collection[str]) -> str | None:
    """The first of the config's architectures that is one of these."""
    told = files.config.get("architectures")
    return next((name for name in told if isinstance(name, str) and name in known), None) if isinstance(told, list) else None


def _family(files: ModelFiles, prompt: Any = None) -> str:
    if files.late:
        return "late interaction"
    if found := _architecture(files, CHOOSERS):
        if prompt is None:
            hint = "Pass prompt=, how the model was trained to be asked: one of " + ", ".join(PROMPTS) + ", or a Prompt of your own."
            raise UnsupportedModelError(f"model '{files.name}'", got=f"{found}, which writes text", expected="a re-ranker", hint=hint)
        return "cross-encoder"
    if found := seq2seq_of(files.config):
        if prompt is None:
            from .t5_prompts import PROMPTS as TEMPLATES

            hint = "Pass prompt=, how the model was trained to be asked: one of " + ", ".join(TEMPLATES) + ", or a T5Prompt of your own."
            raise UnsupportedModelError(f"model '{files.name}'", got=f"{found}, which writes text", expected="a re-ranker", hint=hint)
        return "seq2seq"
    architectures = files.config.get("architectures")
    for architecture in architectures if isinstance(architectures, list) else []:
        if not isinstance(architecture, str):
            continue
        if architecture in MASKED and files.dense_pooling:
            got = f"{architecture} in its config.json and Pooling, of one dense vector, in its modules.json"
            hint = f"AutoModel.from_pretrained(NAME).save_pretrained(FOLDER) makes an encoder of a {architecture}."
            raise UnsupportedModelError(f"model '{files.name}'", got=got, expected="an encoder, or SpladePooling", hint=hint)
        if architecture in FAMILIES:
            return FAMILIES[architecture]
        if architecture in ENCODERS_ALONE:
            got = f"{architecture}, which this version does not run"
            expected = "a T5 with its decoder and LM head, T5ForConditionalGeneration, as RankT5's of encoder and decoder"
            raise UnsupportedModelError(f"model '{files.name}'", got=got, expected=expected)
    raise UnsupportedModelError(
        f"model '{files.name}': architectures in its config.json", got=repr(architectures), expected="one of " + ", ".join(FAMILIES)
    )


def _limit(files: ModelFiles) -> int:
    """The longest input in tokens: the position table, and what the tokenizer's files say if that is less."""
    table = _whole(files, "max_position_embeddings")
    table = 512 if table is None else table
    if files.config.get("model_type") in POSITION_OFFSET:
        table -= _pad(files) + 1
    limit = table if files.max_length is None else min(table, files.max_length)
    if limit < SHORTEST:
        raise CorruptModelError(f"model '{files.name}'", got=f"a limit of {limit} tokens", expected=f"at least {SHORTEST}")
    return limit


def _pad(files: ModelFiles) -> int:
    """The token that fills up batches; of RoBERTa and its kin 1 where the config says nothing, as transformers has it."""
    told = _whole(files, "pad_token_id")
    return told if told is not None else int(files.config.get("model_type") in POSITION_OFFSET)


def _whole(files: ModelFiles, key: str) -> int | None:
    """A number of config.json; None when it is not there."""
    value = files.config.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31):
        raise CorruptModelError(f"model '{files.name}': {key} in its config.json", got=value, expected="a whole number")
    return value
