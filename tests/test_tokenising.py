"""One boundary between prompt and answer, whatever the tokenizer and the template."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefcli.artifacts.references import TINY
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.tokenising import encode_demo, encode_pair
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


def test_rows_are_cut_at_the_answers_end_and_dropped_where_nothing_of_it_is_left():
    encoder = Encoder(AutoTokenizer.from_pretrained(TINY))
    row = Row([{"role": "user", "content": "Where?"}], completion="In the barn, in the barn.")
    prompt, whole = len(encoder.prompt_ids(row.prompt)), len(encoder.demo(row, False)[0])
    kept, cut = encode_demo(row, encoder, whole - 2, False)
    assert (len(kept["input_ids"]), cut) == (whole - 2, True)
    assert encode_demo(row, encoder, prompt, False) == (None, False)


def test_pairs_that_differ_only_behind_the_cut_are_dropped():
    encoder = Encoder(AutoTokenizer.from_pretrained(TINY))
    prompt = [{"role": "user", "content": "Where?"}]
    row = Row(prompt, chosen="In the barn and so on.", rejected="In the barn and no more.")
    room = len(encoder.prompt_ids(prompt)) + 2
    assert encode_pair(row, encoder, room) == (None, False)
