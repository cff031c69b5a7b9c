"""A score is the same wherever it is asked for: in training, ppo, eval, score, a service, and by transformers alone."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch
from families import CHATML, NAMES, TEXT, tokenizer_of
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prefcli.artifacts.references import TINY
from prefcli.artifacts.store import Store
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder
from prefcli.evaluation import models
from prefcli.models.loading import load_policy
from prefcli.models.templates import PROBES, end_at_the_score, ended, inner
from prefcli.models.tokenizers import PLAIN_TEMPLATE, end_ids, load_tokenizer, template_digest
from prefcli.progress import SILENT
from prefcli.rewards.grammar import Scale, parse_rewards
from prefcli.rewards.sources import Answer, ModelReward, load_reward
from prefcli.rl.roles import Prompt
from prefcli.stages.ppo import Scorer

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
# Jinja of each shape: newline behind the end token, more text behind it, the end token nowhere, or where it belongs.
TEMPLATES = {
    "ChatML": CHATML,
    "a turn's own end behind it": CHATML.replace("<|im_end|>\n", "<|im_end|></turn>\n"),
    "no end token": CHATML.replace("<|im_end|>\n", "</turn>\n"),
    "ends there": CHATML.replace("<|im_end|>\n", "<|im_end|>"),
    "begins and ends with newlines": "\n" + CHATML + "\n",
    "of prefcli": PLAIN_TEMPLATE,
    "sets variables": "{%- set ns = namespace(n=0) -%}\n{% set first = messages[0] %}\n" + CHATML,
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", NAMES[:3])
def test_an_ended_template_gives_the_tokens_that_are_scored_and_nothing_else_changes(name, template):
    tokenizer = tokenizer_of(name, TEMPLATES[template])
    encoder, digest, before = Encoder(tokenizer), template_digest(tokenizer), tokenizer.chat_template
    meant, asked = [], []
    for messages in PROBES:
        ids = encoder.prompt_ids(messages[:-1]) + encoder.completion_ids(messages[:-1], messages[-1]["content"])
        meant.append(ids)
        asked.append(encoder.prompt_ids(messages[:-1]))
    assert end_at_the_score(tokenizer) is None
    assert (tokenizer.chat_template == before) == (template in ("ends there", "of prefcli"))
    assert template_digest(tokenizer) == digest and inner(tokenizer.chat_template) == before
    for messages, ids, prompt in zip(PROBES, meant, asked):
        assert tokenizer.apply_chat_template(messages, return_dict=False) == ids and ids[-1] == tokenizer.eos_token_id
        assert tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False) == prompt
        fresh = Encoder(tokenizer)
        assert fresh.prompt_ids(messages[:-1]) + fresh.completion_ids(messages[:-1], messages[-1]["content"]) == ids
    again = tokenizer.chat_template
    assert end_at_the_score(tokenizer) is None and tokenizer.chat_template == again


def test_a_template_that_cannot_be_ended_is_told_of_and_left_as_it_is():
    refuses = tokenizer_of(NAMES[0], "{{ raise_exception('no') }}")
    assert "refuses a dialogue" in end_at_the_score(refuses)
    assert refuses.chat_template == "{{ raise_exception('no') }}"
    # the question is written otherwise once an answer follows: what is trained is another text
    between = tokenizer_of(NAMES[0], CHATML.replace("<|im_end|>\n", "{% if not loop.last %}<|im_end|>{% endif %}\n"))
    assert "or splits it into other tokens" in end_at_the_score(between) and "set whole" not in between.chat_template
    several = tokenizer_of(NAMES[0], CHATML)
    several.chat_template = {"default": CHATML, "tool_use": CHATML}
    assert "ends a dialogue with" in end_at_the_score(several) and several.chat_template["default"] == CHATML
    assert inner(ended("a", "</s>")) == "a" and inner("b") == "b"


@pytest.fixture(scope="module")
def chatml(trained, tmp_path_factory):
    """tiny as a ChatML model, and a reward model on it: the folder, the store."""
    from chain import Chain

    folder = tmp_path_factory.mktemp("chatml")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    own = Chain(folder)
    own.run("train-rm", "--model", str(folder / "base"), "--data", trained.data("pairs"), "--eval-share", "0.25",
            "--max-steps", "12", "--batch-size", "8", "--lr", "2e-3")  # fmt: skip
    own.run("export", "rm", str(folder / "out"))
    return own


def pooled(folder, dialogues, side):
    """Scores as everybody gets them: the chat template, a padded batch, transformers' own pooling."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer.padding_side = side
    batch = tokenizer.apply_chat_template(dialogues, padding=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        return model(**batch).logits[:, 0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("place", ["out", "runs/rm/v1/model"])
def test_a_reward_model_of_a_chatml_model_scores_the_same_in_transformers(chatml, trained, place, side):
    rows = read_dataset([trained.data("held_out_pairs")], "pairs").rows
    source = load_reward(parse_rewards(["rm"], Store(chatml.runs))[0], None, reporter=SILENT, **CPU)
    answers = [(row.prompt, text) for row in rows for text in (row.chosen, row.rejected)]
    expected = source.score([Answer(*answer) for answer in answers])
    dialogues = [[*prompt, {"role": "assistant", "content": text}] for prompt, text in answers]
    found = pooled(chatml.folder / place, dialogues, side)
    assert (found - expected).abs().max() < 2e-5
    order = (expected[0::2] - expected[1::2]).sign()
    assert torch.equal((found[0::2] - found[1::2]).sign(), order)
    # with the base's own template, which ends in a newline, it would not
    tokenizer = AutoTokenizer.from_pretrained(chatml.folder / "base")
    assert tokenizer.apply_chat_template(dialogues[0], tokenize=False).endswith("<|im_end|>\n")
    model = AutoModelForSequenceClassification.from_pretrained(chatml.folder / place).eval()
    with torch.no_grad():
        elsewhere = torch.stack([
            model(**tokenizer.apply_chat_template(d, return_tensors="pt", return_dict=True)).logits[0, 0]
            for d in dialogues
        ])  # fmt: skip
    assert (elsewhere - expected).abs().max() > 0.05


@pytest.mark.parametrize("place", ["out", "runs/rm/v1"])
def test_the_cards_own_lines_give_the_score(chatml, place, monkeypatch):
    monkeypatch.chdir(chatml.folder / place if place != "out" else chatml.folder)
    (code,) = re.findall(r"```python\n(.*?)```", (chatml.folder / place / "README.md").read_text(), re.DOTALL)
    *prompt, answer = PROBES[0]
    tokenizer = AutoTokenizer.from_pretrained("model" if place != "out" else place)
    names: dict[str, object] = {"text": tokenizer.apply_chat_template(PROBES[0], tokenize=False)}
    with torch.no_grad():
        exec(code, names)  # as it stands on the card
    source = load_reward(parse_rewards(["rm"], Store(chatml.runs))[0], None, reporter=SILENT, **CPU)
    assert float(names["score"]) == pytest.approx(source.score([Answer(prompt, answer["content"])]).item(), abs=2e-5)


def test_a_policys_own_ids_are_still_read_and_a_service_reads_texts_with_the_templates_newline(chatml):
    store = Store(chatml.runs)
    policy = AutoTokenizer.from_pretrained(chatml.folder / "base")
    source = load_reward(parse_rewards(["rm"], store)[0], policy, reporter=SILENT, **CPU)
    assert source.same_ids and template_digest(source._encoder.tokenizer) == template_digest(policy)
    messages = PROBES[0]
    by_text = source.score([Answer(messages[:-1], messages[-1]["content"])])
    text = policy.apply_chat_template(messages, tokenize=False)
    asked = policy.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    assert text.endswith("\n")
    for prompt in (None, asked):
        ids = source.ids_of_text(text, prompt, None, "the text")
        assert torch.allclose(source.score_ids([ids]), by_text, atol=1e-5)
    untrimmed = source.score_ids([source.ids_of_text(text.rstrip("\n") + "more", None, None, "the text")])
    assert not torch.allclose(untrimmed, by_text, atol=1e-4)  # what is no blank stays


# eval and compare against ppo


def sampled(chain, policy, longest):
    """Answers of a policy, most of them cut."""
    rows = read_dataset([chain.data("held_out_prompts")], "prompts").rows
    reference = parse_rewards([policy], Store(chain.runs))[0].reference
    tokenizer = load_tokenizer(reference, SILENT)
    model = load_policy(reference, trainable=False, tokenizer_size=len(tokenizer), **CPU)
    answers = models.answer(model, tokenizer, rows, max_new_tokens=longest, temperature=1.0, batch_size=16, seed=0)
    return rows, tokenizer, answers, end_ids(tokenizer, model.generation_config)


@pytest.mark.parametrize("longest", [4, 40])
def test_eval_scores_an_answer_as_ppo_does(chain, longest):
    rows, tokenizer, answers, ends = sampled(chain, "sft", longest)
    assert 0 < sum(answers.ended) < len(rows) or longest == 4
    store = Store(chain.runs)
    in_ppo = load_reward(parse_rewards(["rm"], store)[0], tokenizer, reporter=SILENT, **CPU)
    score = Scorer([in_ppo], {"rm": Scale()}, ends)
    prompts = [Prompt(ids, row) for ids, row in zip(answers.prompt_ids, rows)]
    expected = score(prompts, answers.completion_ids, answers.completions)["rm"]
    in_eval = load_reward(parse_rewards(["rm"], store)[0], None, reporter=SILENT, **CPU)
    found = models.scores(in_eval.reading(tokenizer), rows, answers)
    assert found == pytest.approx(expected.tolist(), abs=1e-6)
    # an end token behind what was cut, as it was before, is another text
    texts = in_eval.score([Answer(row.prompt, text) for row, text in zip(rows, answers.completions)])
    cut = [i for i, end in enumerate(answers.ended) if not end]
    assert max(abs(found[i] - texts[i].item()) for i in cut) > 1e-3


def test_an_answer_that_was_cut_gets_no_end_token_from_another_tokenizer_either():
    tokenizer = tokenizer_of(NAMES[0])
    encoder = Encoder(tokenizer)
    scorer = ModelReward("r", SimpleNamespace(eval=lambda: None), tokenizer, same_ids=False)
    prompt = [{"role": "user", "content": TEXT[0]}]
    whole, cut = (scorer._ids(Answer(prompt, "On the sh", ended=ended))[1] for ended in (True, False))
    assert whole == [*cut, tokenizer.eos_token_id] == encoder.completion_ids(prompt, "On the sh")
    seen = []
    score = Scorer([SimpleNamespace(name="r", score=lambda answers: seen.extend(answers) or torch.zeros(2))],
                   {"r": Scale()}, frozenset({9}))  # fmt: skip
    score([Prompt([1], SimpleNamespace(prompt="p", columns={}))] * 2, [[4, 9], [4, 4]], ["a", "b"])
    assert [answer.ended for answer in seen] == [True, False]


def test_eval_and_the_command_agree(chain, prefcli):
    result = prefcli("eval", "--model", "sft", "--prompts", chain.data("held_out_prompts"), "--reward", "rm", "--json",
                     "--max-new-tokens", "4", "--temperature", "1")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows, tokenizer, answers, _ = sampled(chain, "sft", 4)
    source = load_reward(parse_rewards(["rm"], Store(chain.runs))[0], None, reporter=SILENT, **CPU)
    expected = models.scores(source.reading(tokenizer), rows, answers)
    (entry,) = json.loads(result.stdout)["models"]
    assert entry["reward"]["rm"]["mean"] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
