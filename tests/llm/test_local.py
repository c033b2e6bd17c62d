"""A tiny causal language model with random weights, by transformers: what it writes is noise, what is made of it must be right."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import tokenizers  # noqa: E402
from tokenizers import models, pre_tokenizers  # noqa: E402

import rerank_engine as rr  # noqa: E402
from rerank_engine.errors import InputError, UnknownModelError  # noqa: E402
from rerank_engine.llm.chat import Ask  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ["<pad>", "</s>", "<unk>", "[", "]", ">", "tea", "coffee", "passage", *map(str, range(1, 21)), *"ABCDEFGHIJKLMNOPQRST"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} </s> {% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.fixture(scope="module", params=[True, False], ids=["chat template", "plain"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048, eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    if request.param:
        fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    return path


def test_it_writes_what_transformers_writes(folder):
    chat = rr.Chat.local(folder)
    messages = ({"role": "user", "content": "tea coffee passage 3"},)
    (reply,) = chat.ask([Ask(messages, 6)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    if tokenizer.chat_template:
        ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    else:
        ids = tokenizer("tea coffee passage 3", return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    assert reply.text == tokenizer.decode(out, skip_special_tokens=True) and reply.prompt_tokens == ids.shape[1]
    assert chat.context == 2048 and chat.count("tea coffee") == 2


def test_probabilities_are_those_of_the_model(folder):
    chat = rr.Chat.local(folder)
    messages = ({"role": "user", "content": "tea"},)
    (reply,) = chat.ask([Ask(messages, 2, 5)])
    assert [len(place) for place in reply.likeliest] == [5, 5]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    text = (
        TEMPLATE and tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        if tokenizer.chat_template
        else "tea"
    )
    with torch.inference_mode():
        told = torch.log_softmax(model(tokenizer(text, return_tensors="pt")["input_ids"]).logits[0, -1], -1)
    best = told.topk(5)
    assert [token for token, _ in reply.likeliest[0]] == [tokenizer.decode([i]) for i in best.indices.tolist()]
    assert np.allclose([value for _, value in reply.likeliest[0]], best.values.numpy(), atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"template": "first"}, {"template": "rankzephyr", "shuffles": 3}, {"method": "tournament"}])
def test_stages_run_on_it(folder, how):
    texts = ["tea " * (i + 1) for i in range(12)]
    found = rr.Listwise(rr.Chat.local(folder), window=5, step=2, **how)("tea", texts)
    assert sorted(found.ids.tolist()) == list(range(12)) and found.trace[0].facts["calls"] >= 5 and found.scale == "rank"
    if how.get("template") == "first":
        assert found.trace[0].facts["completion_tokens"] <= 2 * found.trace[0].facts["calls"]
    for stage in (rr.Setwise(rr.Chat.local(folder), top=2, logits=True), rr.Pairwise(rr.Chat.local(folder), top=2, depth=5)):
        assert sorted(stage("tea", texts).ids.tolist()) == list(range(12))


def test_a_prompt_longer_than_the_context_is_cut_to_fit(folder):
    chat = rr.Chat.local(folder, context=400)
    found = rr.Listwise(chat, template="rankzephyr", window=8, step=4)("tea", ["coffee " * 500] * 8)
    assert found.trace[0].facts["prompt_tokens"] <= 400
    with pytest.raises(InputError, match="smaller window"):
        rr.Listwise(rr.Chat.local(folder, context=150), template="rankzephyr")("tea", ["coffee " * 500] * 20)


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(UnknownModelError):
        rr.Chat.local(tmp_path)
