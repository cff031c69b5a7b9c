"""The boundary between prompt and answer: the same ids in training, scoring and sampling, in every family."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from families import LOSSLESS, NAMES, tokenizer_of

from prefcli.artifacts.references import Reference
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.tokenising import encode_demo, encode_labelled, encode_pair
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from prefcli.rewards.sources import Answer, ModelReward
from prefcli.rl.rollout import decode

PIECES = ["kite", "Where", "the", "in", " ", "  ", "\n", "\n\n", "\t", ".", "?", ":", "'s", "é", "e\u0301", "\u0301",
          "漢字", "👩‍🚀", "\u200d", "\u00a0", "0", "7", "x"]  # fmt: skip
KNOWN = ["kite", "Where", "the", "in", " ", "  ", "\n", ".", "?", "is", "barn"]  # what each family has letters for


def texts(seed: int, count: int, pieces: list[str] = PIECES) -> list[str]:
    """Texts whose ends are what tokenizers trip over: spaces, newlines, marks that join the letter before."""
    dice = random.Random(seed)
    made = ["".join(dice.choices(pieces, k=dice.randint(1, 5))) for _ in range(count * 2)]
    return [text for text in made if text.strip()][:count]


def prompts(seed: int, count: int):
    plain = texts(seed, count)
    return [*plain, *([{"role": "user", "content": text}] for text in plain)]


@pytest.fixture(params=NAMES)
def encoder(request):
    return Encoder(tokenizer_of(request.param))


def test_training_scoring_and_sampling_see_the_same_ids_on_both_sides_of_the_boundary(encoder):
    scorer = ModelReward("r", SimpleNamespace(eval=lambda: None), encoder.tokenizer, same_ids=False)
    for prompt, answer, other in zip(prompts(1, 30), texts(2, 60), texts(3, 60)):
        sampled_after = Encoder(encoder.tokenizer).prompt_ids(prompt)  # evaluation/models.py, rl's prompts
        other = other if other != answer else other + "."
        ids = encoder.completion_ids(prompt, answer)
        demo, _ = encode_demo(Row(prompt, completion=answer), encoder, 999, False)
        labelled, _ = encode_labelled(Row(prompt, completion=answer, label=True), encoder, 999)
        assert demo["input_ids"] == sampled_after + ids
        assert demo["completion_mask"] == [0] * len(sampled_after) + [1] * len(ids)
        assert (labelled["prompt_ids"], labelled["completion_ids"]) == (sampled_after, ids)
        assert scorer._ids(Answer(prompt, answer)) == (sampled_after, ids)
        pair, _ = encode_pair(Row(prompt, chosen=answer, rejected=other), encoder, 999)
        assert pair is None or (pair["prompt_ids"], pair["chosen_ids"]) == (sampled_after, ids)
        assert sampled_after and ids[-1] == encoder.tokenizer.eos_token_id != sampled_after[-1]


@pytest.mark.parametrize("name", LOSSLESS)
def test_an_answer_that_was_sampled_is_trained_and_scored_as_the_ids_that_were_sampled(name):
    """ids → text → ids: no space is won or lost at the boundary, whatever the answer begins with."""
    encoder = Encoder(tokenizer_of(name))
    eos = encoder.tokenizer.eos_token_id
    for prompt, answer in zip(prompts(4, 40), texts(5, 80)):
        ids = encoder.completion_ids(prompt, answer)
        (text,) = decode(encoder.tokenizer, [ids], frozenset({eos}))
        assert text == answer
        assert encoder.completion_ids(prompt, text) == ids


@pytest.mark.parametrize("name", LOSSLESS)
def test_prompt_and_answer_together_read_as_one_text(name):
    encoder = Encoder(tokenizer_of(name))
    read = encoder.tokenizer.decode
    for prompt, answer in zip(texts(6, 60), texts(7, 60)):
        ids = encoder.prompt_ids(prompt) + encoder.completion_ids(prompt, answer)[:-1]
        alone = read(encoder.prompt_ids(prompt), skip_special_tokens=True)
        assert read(ids, skip_special_tokens=True) == alone + answer


def test_where_the_joined_text_begins_with_the_prompt_s_ids_the_answer_s_are_the_rest(encoder):
    """Tokenising prompt and answer as one text is the other way there is. Where no token spans the two they agree."""
    begins, pieces = 0, PIECES if encoder.tokenizer.name_or_path in LOSSLESS else KNOWN
    for prompt, answer in zip(texts(8, 120, pieces), texts(9, 120, pieces)):
        answer = (
            f" {answer}" if encoder.tokenizer.name_or_path == "WordPiece" else answer
        )  # it goes on in a word's middle
        ids, joined = encoder.text_ids(prompt), encoder.text_ids(prompt + answer)
        if ids and joined[: len(ids)] == ids:
            begins += 1
            assert encoder.continued_ids(answer) == joined[len(ids) :], (prompt, answer)
    assert begins > 20


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_of_a_dialogue_is_trained_in_every_family(name):
    encoder = Encoder(tokenizer_of(name))
    turns = [("user", "Where is the kite?"), ("assistant", "in the barn."), ("user", "Where?")]
    ids, mask = encoder.demo(Row([{"role": r, "content": c} for r, c in turns], completion="the barn."), False)
    parts = "".join("#" if one else " " for one in mask).split()
    spans = [encoder.completion_ids([{"role": "user", "content": "x"}], text) for text in ("in the barn.", "the barn.")]
    assert [len(part) for part in parts] == [len(span) for span in spans]
    assert [i for i, one in zip(ids, mask) if one] == [i for span in spans for i in span]


def test_a_plain_prompt_gets_what_the_tokenizer_puts_before_a_text_once_and_nothing_behind(encoder):
    tokenizer = encoder.tokenizer
    whole = tokenizer("the kite")["input_ids"]
    ids = encoder.prompt_ids("the kite")
    assert ids == [i for n, i in enumerate(whole) if n == 0 or i not in (tokenizer.eos_token_id, ends(tokenizer))]
    if tokenizer.bos_token:
        assert encoder.prompt_ids(tokenizer.bos_token + "the kite").count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_dialogue_without_a_template_begins_as_the_tokenizer_begins_every_text(name, tmp_path):
    tokenizer_of(name, None).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(Reference(str(tmp_path), "directory", tmp_path, None), SILENT)
    ids = Encoder(tokenizer).prompt_ids([{"role": "user", "content": "the kite"}])
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id in tokenizer("a")["input_ids"] else None
    assert (ids[0] == bos) == (bos is not None) and ids.count(bos) == (bos is not None)


def ends(tokenizer) -> int:
    return tokenizer.convert_tokens_to_ids("[SEP]")


def test_ids_are_those_that_the_tokenizer_itself_gives_whatever_it_was_asked_before(encoder):
    tokenizer = encoder.tokenizer
    for text in [*texts(10, 100), "a" + tokenizer.eos_token + " b"]:
        assert encoder.text_ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    tokenizer(["the kite is in", "the"], padding=True, truncation=True, max_length=2)  # which it remembers
    text = "the kite is in the barn"
    assert encoder.text_ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_prompt_of_nothing_that_the_tokenizer_keeps_still_has_a_token(encoder):
    for prompt in ("", "\n", " ", [{"role": "user", "content": " "}]):
        assert len(encoder.prompt_ids(prompt)) > 0
