"""One boundary between prompt and answer, whatever the tokenizer and the template."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefcli.artifacts.references import TINY
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.scan import scan
from prefcli.data.tokenising import encode_demo, encode_pair
from prefcli.errors import DataError
from prefcli.models.tokenizers import PLAIN_TEMPLATE

TEXT = ["Where is the kite? The kite is in the barn.", "Mira keeps a red lamp on the porch, and so on."] * 20
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (  # renders earlier turns otherwise once an answer follows, as templates that drop thoughts do
    "{% for m in messages %}{% if loop.last and m.role == 'user' %}[ask]{% else %}[{{ m.role }}]{% endif %}"
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def trained(kind: str, template: str, bos: str | None = None) -> PreTrainedTokenizerFast:
    special = ["<|im_end|>", "<|pad|>", "<|im_start|>", "<s>", "[UNK]"]
    if kind == "word":
        backend = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=special))
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        backend.train_from_iterator(
            TEXT, trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="[UNK]")
        )
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    if bos:
        from tokenizers.processors import TemplateProcessing

        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>", bos_token=bos, unk_token="[UNK]"
    )
    tokenizer.chat_template = template
    return tokenizer


def families() -> dict[str, PreTrainedTokenizerFast]:
    return {
        "tiny": AutoTokenizer.from_pretrained(TINY),
        "bpe chatml": trained("bpe", CHATML),
        "bpe bos": trained("bpe", PLAIN_TEMPLATE, bos="<s>"),
        "unigram": trained("unigram", CHATML),
        "word": trained("word", PLAIN_TEMPLATE),
        "forgetful template": trained("bpe", FORGETFUL),
    }


PROMPTS = ["Where is the kite? The", [{"role": "user", "content": "Where is the kite?"}]]


@pytest.mark.parametrize("family", ["tiny", "bpe chatml", "bpe bos", "unigram", "word", "forgetful template"])
@pytest.mark.parametrize("prompt", PROMPTS, ids=["plain", "chat"])
def test_training_sees_the_prompt_as_it_is_sampled_and_an_answer_that_ends(family, prompt):
    tokenizer = families()[family]
    encoder = Encoder(tokenizer)
    sampled_after = encoder.prompt_ids(prompt)
    answer = " kite is in the barn."
    pair, _ = encode_pair(Row(prompt, chosen=answer, rejected="no"), encoder, 512)
    demo, mask = encoder.demo(Row(prompt, completion=answer), train_on_prompt=False)
    assert pair["prompt_ids"] == sampled_after == demo[: len(sampled_after)]
    assert demo[len(sampled_after) :] == pair["chosen_ids"]
    assert mask == [0] * len(sampled_after) + [1] * len(pair["chosen_ids"])
    assert pair["chosen_ids"][-1] == tokenizer.eos_token_id  # nothing after it, whatever the template adds
    assert pair["chosen_ids"].count(tokenizer.eos_token_id) == 1
    if isinstance(prompt, list):
        rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        assert sampled_after == tokenizer(rendered, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    assert bos is None or isinstance(prompt, list) or sampled_after.count(bos) == 1


def test_every_answer_of_a_dialogue_is_trained_and_no_question():
    encoder = Encoder(AutoTokenizer.from_pretrained(TINY))
    turns = [("user", "Where is it?"), ("assistant", "In the barn."), ("user", "Who has it?")]
    prompt = [{"role": role, "content": content} for role, content in turns]
    ids, mask = encoder.demo(Row(prompt, completion="Mira has it."), train_on_prompt=False)
    trained_text = encoder.tokenizer.decode([i for i, m in zip(ids, mask) if m])
    assert trained_text == "In the barn.<|end|>Mira has it.<|end|>"
    assert encoder.demo(Row(prompt, completion="Mira has it."), train_on_prompt=True)[1] == [1] * len(ids)


# Writes calls and tools, thoughts before the last answer alone, as Qwen3's does; passes over the role developer.
THINKS = (
    "{% for tool in tools or [] %}[tool {{ tool.function.name }}]\n{% endfor %}"
    "{% for m in messages if m.role != 'developer' %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls or [] %}"
    "[{{ call.function.name }} {{ call.function.arguments.of }}]{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = {"role": "assistant", "content": None,
        "tool_calls": [{"function": {"name": "find", "arguments": '{"of": "kite"}'}}]}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "find", "description": None}}]


def tiny_with(template):
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = template.replace("<|im_end|>", tokenizer.eos_token)
    return Encoder(tokenizer)


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def row_of(jsonl, **raw):
    found = scan(str(jsonl("one.jsonl", raw))).row(0)
    assert isinstance(found, Row), found
    return found


def marked(encoder, row):
    """The text of a demonstration, and of its trained parts."""
    ids, mask = encoder.demo(row, train_on_prompt=False)
    return encoder.tokenizer.decode(ids), encoder.tokenizer.decode([i for i, m in zip(ids, mask) if m])


@pytest.mark.parametrize(
    "tools", [TOOLS, json.dumps(TOOLS), [json.dumps(TOOLS[0])]], ids=["list", "JSON", "list of JSON"]
)
def test_a_call_is_trained_as_the_template_writes_it_with_the_tools_before_it(jsonl, tools):
    encoder = tiny_with(THINKS)
    turns = [said("user", "Where?"), CALL, said("tool", "in the barn", name="find", tool_call_id="1")]
    answer = said(
        "assistant", [{"type": "text", "text": "In the"}, {"type": "text", "text": "barn."}], reasoning_content="Hm."
    )
    row = row_of(jsonl, messages=[*turns, answer], tools=tools)
    assert (row.prompt[2]["name"], row.prompt[2]["tool_call_id"]) == ("find", "1") and row.columns == {"tools": tools}
    text, learnt = marked(encoder, row)
    assert learnt == "[find kite]<|end|><think>Hm.</think>In the\nbarn.<|end|>"
    assert text.startswith("[tool find]\n<|im_start|>user") and encoder.untrained == 0
    last = row_of(jsonl, messages=turns[:2], tools=tools)
    assert marked(encoder, last)[1] == "<think></think>[find kite]<|end|>"
    assert last.completion == json.dumps([{"function": {"name": "find", "arguments": {"of": "kite"}}}])  # for rewards


# Puts the result of a call right behind it, and refuses one without a call, as Gemma's and gpt-oss's do.
RESULTS = (
    "{% for m in messages %}{% if m.role == 'tool' %}{% if not messages[loop.index0 - 1].tool_calls %}"
    "{{ raise_exception('no call') }}{% endif %}(got {{ m.content }}){% else %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for call in m.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_call_is_trained_where_its_result_follows_without_an_end(jsonl):
    encoder = tiny_with(RESULTS)
    turns = [said("user", "Where?"), CALL, said("tool", "barn"), said("assistant", "In the barn.")]
    assert marked(encoder, row_of(jsonl, messages=turns))[1] == "[find]In the barn.<|end|>"
    assert encoder.untrained == 0


def test_sides_that_differ_in_their_calls_alone_are_a_pair(jsonl):
    encoder = tiny_with(THINKS)
    other = CALL | {"tool_calls": [{"function": {"name": "find", "arguments": {"of": "lamp"}}}]}
    row = row_of(jsonl, prompt=[said("user", "Where?")], chosen=[CALL], rejected=[other])
    pair, _ = encode_pair(row, encoder, 512)
    assert [encoder.tokenizer.decode(pair[f"{side}_ids"]) for side in ("chosen", "rejected")] == [
        f"<think></think>[find {what}]<|end|>" for what in ("kite", "lamp")
    ]


@pytest.mark.parametrize(("turns", "part"), [
    ([said("user", "q"), CALL], "leaves out the tool_calls of the role 'assistant'"),
    ([said("user", "q"), CALL, said("tool", "1"), said("assistant", "a")], "leaves out the tool_calls"),
])  # fmt: skip
def test_a_call_that_the_template_passes_over_is_no_empty_answer(jsonl, turns, part):
    with pytest.raises(DataError, match=part):
        tiny_with(CHATML).demo(row_of(jsonl, messages=turns), False)


def test_a_message_that_the_template_passes_over_is_named(jsonl):
    row = row_of(jsonl, messages=[said("developer", "Be kind."), said("user", "q"), said("assistant", "a")])
    with pytest.raises(DataError, match="leaves out the message of the role 'developer'"):
        tiny_with(THINKS).demo(row, False)
    assert "Be kind." in marked(tiny_with(CHATML), row)[0]


@pytest.mark.parametrize(("template", "closed"), [
    (THINKS, "<|end|>"), (FORGETFUL, "<|end|>"), (THINKS.replace("<|im_end|>", "[end]"), "[end]"),
], ids=["thinking", "forgetful", "another end"])  # fmt: skip
def test_an_earlier_answer_is_trained_as_the_template_writes_it_there(template, closed):
    encoder = tiny_with(template)
    prompt = [said("user", "Where is it?"), said("assistant", " In the barn. "), said("user", "Who has it?")]
    for most in (None, 400):
        ids, mask = encoder.demo(Row(prompt, completion="Mira."), False, most)
        learnt = encoder.tokenizer.decode([i for i, m in zip(ids, mask) if m])
        assert learnt.startswith(f" In the barn. {closed}") and learnt.endswith(
            "Mira.<|end|>" if closed[0] == "<" else "Mira.[end]\n<|end|>"
        )
    assert (encoder.untrained, encoder.earlier) == (0, 2)
    few, mask = encoder.demo(Row(prompt, completion="Mira."), False, 12)
    assert mask[:12] == encoder.demo(Row(prompt, completion="Mira."), False)[1][:12]


def test_rows_are_cut_at_the_answers_end_and_dropped_where_nothing_of_it_is_left():
    encoder = Encoder(AutoTokenizer.from_pretrained(TINY))
    row = Row([{"role": "user", "content": "Where?"}], completion="In the barn, in the barn.")
    prompt, whole = len(encoder.prompt_ids(row.prompt)), len(encoder.demo(row, False)[0])
    kept, cut = encode_demo(row, encoder, whole - 2, False)
    assert (len(kept["input_ids"]), cut) == (whole - 2, True)
    assert encode_demo(row, encoder, prompt, False) == (None, False)


@pytest.mark.parametrize("prompt", ["", "Where?", [{"role": "user", "content": "Where?"}]])
def test_an_end_token_in_the_middle_of_an_answer_does_not_end_it(prompt):
    encoder = Encoder(AutoTokenizer.from_pretrained(TINY))
    eos, name = encoder.tokenizer.eos_token_id, encoder.tokenizer.eos_token
    plain = encoder.completion_ids(prompt, "In the barn.")
    ids = encoder.completion_ids(prompt, f"In the barn.{name}By the door.")
    assert ids[: len(plain)] == plain and ids[-1] == eos and ids.count(eos) == 2
    assert encoder.tokenizer.decode(ids[len(plain) : -1]).strip() == "By the door."
    if isinstance(prompt, str):
        assert encoder.completion_ids(prompt, f"In the barn.{name} \n") == plain
    long = f"In the barn.{name}" + " By the door." * 2000
    assert encoder.completion_ids(prompt, long, 50)[:50] == encoder.completion_ids(prompt, long)[:50]


def test_pairs_that_differ_only_behind_the_cut_are_dropped():
    encoder = Encoder(AutoTokenizer.from_pretrained(TINY))
    prompt = [{"role": "user", "content": "Where?"}]
    row = Row(prompt, chosen="In the barn and so on.", rejected="In the barn and no more.")
    room = len(encoder.prompt_ids(prompt)) + 2
    assert encode_pair(row, encoder, room) == (None, False)
