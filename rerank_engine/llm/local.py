"""A causal language model in this process, by transformers: greedy, one prompt at a time. Needs transformers and torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, final

from ..errors import InputError, MissingDependency, UnknownModelError
from ..limits import Limits
from ..posting import Late
from .chat import Ask, Reply


@final
class Local:
    """path_or_name: a folder, or a name on the hub. dtype: of the weights, "auto" for the file's. Prompts go through the tokenizer's chat
    template; without one their contents stand one after the other.

    Raises MissingDependency, UnknownModelError, InputError.
    """

    concurrency, tells_likeliest = 1, True

    def __init__(self, path_or_name: str | Path, *, device: str = "cpu", dtype: str = "auto") -> None:
        try:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ModuleNotFoundError as error:
            raise MissingDependency("Chat.local: transformers and torch are needed", hint="pip install transformers torch") from error
        if dtype not in ("auto", "float32", "float16", "bfloat16"):
            raise InputError("Chat.local: dtype", got=dtype, expected="auto, float32, float16 or bfloat16")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path_or_name)
            kind = dtype if dtype == "auto" else getattr(torch, dtype)
            loaded: Any = AutoModelForCausalLM.from_pretrained(path_or_name, dtype=kind)
            self._model: Any = loaded.to(device).train(False)
        except (OSError, ValueError) as error:
            got = (str(error).splitlines() or [""])[0]
            raise UnknownModelError(f"Chat.local: '{path_or_name}'", got=got, expected="a causal language model of transformers") from error
        self.name, self._one = str(path_or_name), threading.Lock()
        self.identity = f"transformers {Path(path_or_name).absolute() if Path(path_or_name).exists() else path_or_name} {dtype}"
        self.reserved = tuple(self._tokenizer.all_special_tokens)  # in a text they would become the tokens themselves
        self.context: int | None = getattr(self._model.config, "max_position_embeddings", None)

    def count(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def send(self, ask: Ask, wanted: Limits) -> Reply:
        import torch

        ids = torch.tensor([self._ids(ask)], device=self._model.device)
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        how = {"max_new_tokens": ask.most, "do_sample": False, "return_dict_in_generate": True, "output_logits": bool(ask.likeliest)}
        how |= {"min_new_tokens": ask.most} if ask.likeliest else {}
        with self._one, torch.inference_mode():
            out = self._model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=pad, stopping_criteria=[_stop(wanted)], **how)
        made = out.sequences[0, ids.shape[1] :].tolist()
        if wanted.out_of_time() and len(made) < ask.most and made[-1:] != [self._tokenizer.eos_token_id]:
            raise Late(f"the language model '{self.name}'", got="half an answer at the deadline", expected="a whole one")
        likeliest = []
        for logits in out.logits if ask.likeliest else ():
            top = torch.log_softmax(logits[0].float(), -1).topk(min(ask.likeliest, logits.shape[-1]))
            likeliest.append(tuple((self._tokenizer.decode([i]), v) for i, v in zip(top.indices.tolist(), top.values.tolist())))
        text = self._tokenizer.decode(made, skip_special_tokens=True)
        return Reply(text, ids.shape[1], len(made), tuple(likeliest), cut=len(made) >= ask.most)

    def _ids(self, ask: Ask) -> list[int]:
        messages = list(ask.messages)
        if not self._tokenizer.chat_template:
            return list(self._tokenizer("\n".join(message["content"] for message in messages))["input_ids"])
        try:
            made = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except Exception:  # whatever a template raises: some know no role of the system
            system, first, *rest = messages
            if system["role"] != "system":
                raise
            joined = {**first, "content": f"{system['content']}\n\n{first['content']}"}
            made = self._tokenizer.apply_chat_template([joined, *rest], add_generation_prompt=True, return_dict=True)
        return list(made["input_ids"])


def _stop(wanted: Limits) -> Any:
    """Ends a text at the deadline, or raises Cancelled, between two of its tokens."""

    def over(ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        wanted.check()
        return torch.full((ids.shape[0],), wanted.out_of_time(), dtype=torch.bool, device=ids.device)

    return over
