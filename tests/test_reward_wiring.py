"""Between a reward source and what asks it: which tokens, template, mode and order, and whose columns."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_scorer

from prefcli.artifacts.references import resolve
from prefcli.config.dpo import DPOConfig
from prefcli.data.row import Row
from prefcli.errors import ArtifactError
from prefcli.evaluation.rewards import firsts, pair_scores
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT, Reporter
from prefcli.rewards import sources
from prefcli.rewards.grammar import RewardSpec, Scale
from prefcli.rewards.preflight import PAIRS, preflight
from prefcli.rewards.python import columns_of
from prefcli.rewards.sources import Answer, HTTPReward, ModelReward, PythonReward
from prefcli.rl.roles import Prompt
from prefcli.stages import dpo
from prefcli.stages.ppo import Scorer


@pytest.fixture
def tokenizer(store):
    return load_tokenizer(resolve("tiny", store), SILENT)


def other_template(tokenizer):
    """The same tokens, and a dialogue rendered otherwise."""
    found = copy.deepcopy(tokenizer)
    found.chat_template = tokenizer.chat_template.replace("user", "USER") + "{# another #}"
    assert found.chat_template != tokenizer.chat_template
    return found


def other_tokens(tokenizer):
    """The same template, and a token more."""
    found = copy.deepcopy(tokenizer)
    found.add_tokens(["<another>"])
    return found


def other_end(tokenizer):
    """The same tokens and template, which writes another one behind an answer."""
    found = copy.deepcopy(tokenizer)
    found.eos_token = tokenizer.pad_token
    assert found.eos_token_id != tokenizer.eos_token_id
    return found


def other_start(tokenizer):
    found = copy.deepcopy(tokenizer)
    found.bos_token = tokenizer.pad_token
    return found


def scorer(tokenizer, **kind):
    model = tiny_scorer(kind.pop("architecture", "llama"), vocab=len(tokenizer), layers=1, **kind)
    return ModelReward("r", model, tokenizer, same_ids=False)


PROMPT = [{"role": "user", "content": "Where is the cup?"}]


@pytest.mark.parametrize(
    ("change", "same"),
    [(copy.deepcopy, True), *((change, False) for change in (other_template, other_tokens, other_end, other_start))],
)
def test_a_policys_ids_are_scored_where_both_tokens_and_template_are_the_same_and_else_the_text(
    tokenizer, change, same
):
    source = scorer(tokenizer)
    reads = source.reading(change(tokenizer))
    assert reads.same_ids is same and source.same_ids is False  # the first stays as it was
    strange = Answer(PROMPT, "On the shelf.", prompt_ids=[5, 6, 7], completion_ids=[8, 9])
    by_text = source.score([Answer(PROMPT, "On the shelf.")])
    assert torch.equal(reads.score([strange]), source.score_ids([[5, 6, 7, 8, 9]]) if same else by_text)
    assert not torch.equal(by_text, source.score_ids([[5, 6, 7, 8, 9]]))


def test_a_reward_model_in_training_mode_with_dropout_scores_as_one_without(tokenizer):
    noisy = tiny_scorer("gpt2", vocab=len(tokenizer), layers=1).train()
    for module in noisy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    source = ModelReward("r", noisy, tokenizer, same_ids=False)
    answers = [Answer(PROMPT, f"On shelf {i}.") for i in range(5)]
    found = source.score(answers)
    assert torch.equal(found, source.score(answers)) and not noisy.training and found.std() > 0


@pytest.mark.parametrize("tokens_per_row", [None, 40])
def test_scores_go_back_to_their_answers_however_they_were_sorted(tokenizer, tokens_per_row):
    source = scorer(tokenizer)
    texts = [
        "On the shelf, I think, or was it by the door?",
        "No.",
        "In the garden behind the house.",
        "Yes!",
        "By it.",
    ]
    answers = [Answer(PROMPT, text) for text in texts]
    alone = torch.cat([source.score([answer]) for answer in answers])
    source._batch_size, source.tokens_per_row = 2, tokens_per_row
    torch.testing.assert_close(source.score(answers), alone, atol=1e-5, rtol=1e-5)
    assert len(set(alone.tolist())) == len(texts)


def test_a_function_sees_each_answer_with_the_columns_of_its_own_row():
    seen = {}

    def score(prompts, completions, **columns):
        seen.update(columns, prompts=prompts, completions=completions)
        return [float(x) for x in columns["x"]]

    rows = [Row("a", columns={"x": 1, "y": "p"}), Row("b", columns={"x": 2}), Row("c", columns={"x": 3, "z": 0})]
    answers = [Answer(row.prompt, row.prompt * 2, columns=row.columns) for row in rows]
    assert PythonReward("r", score).score(answers).tolist() == [1.0, 2.0, 3.0]
    assert seen == {"x": [1, 2, 3], "y": ["p", None, None], "z": [None, None, 0], "prompts": ["a", "b", "c"],
                    "completions": ["aa", "bb", "cc"]}  # fmt: skip
    assert columns_of([{"prompts": 1, "completions": 2, "w": 3}, None]) == {"w": [3, None]}


def test_scores_are_what_a_function_or_a_service_gave_and_no_rounded_ones():
    exact = [0.6, 1_700_000_001.0, 0.1 + 0.2]
    rows = [Row("p", chosen=str(place), rejected="0") for place in range(3)]
    by_place = PythonReward("r", lambda prompts, completions, **_: [exact[int(text)] for text in completions])
    service = HTTPReward("s", SimpleNamespace(scores=lambda *_: exact), None)
    for source in (by_place, service):
        assert source.score([Answer("p", row.chosen) for row in rows]).tolist() == exact
    assert firsts(pair_scores(by_place, rows)).tolist() == [[score, 0.6] for score in exact]


@pytest.mark.parametrize("weight", [2.0, -0.5, 0.0])
def test_each_source_has_its_own_scale_and_one_of_weight_0_only_judges(weight):
    sources_ = [PythonReward("a", lambda prompts, completions, **_: [1.0, -3.0]),
                PythonReward("b", lambda prompts, completions, **_: [5.0, 7.0])]  # fmt: skip
    score = Scorer(sources_, {"a": Scale(weight, mean=1.0, std=2.0), "b": Scale(1.0)})
    found = score([Prompt([1], Row("p"))] * 2, [[1], [2]], ["x", "y"])
    expected = {"a": [0.0, weight * -2.0], "b": [5.0, 7.0]}
    judged = {"a": [1.0, -3.0]} if weight == 0 else {}  # as it is, neither scaled nor shifted
    assert {name: scores.tolist() for name, scores in found.items()} == {
        n: v for n, v in expected.items() if n not in judged
    }
    assert score.judged == judged


def test_a_service_is_sent_each_text_with_its_prompt_and_label_in_parts(monkeypatch, tokenizer):
    """More answers than go into one request: each part has its own."""
    monkeypatch.setattr(sources, "AT_A_TIME", 2)
    sent = []

    def scores(texts, prompts, labels):
        sent.append((texts, prompts, labels))
        return [float(len(text)) for text in texts]

    service = SimpleNamespace(scores=scores)
    answers = [Answer(f"p{i}", "a" * i, columns={"label": i} if i else None) for i in range(3)]
    found = HTTPReward("r", service, None).score(answers)
    assert found.tolist() == [2.0, 3.0, 4.0]
    assert sent == [(["p0", "p1a"], ["p0", "p1"], ["", 1]), (["p2aa"], ["p2"], [2])]
    HTTPReward("r", service, tokenizer).score([Answer(PROMPT, "On the shelf.")])
    ((text,), (prompt,), _) = sent[-1]
    assert text.startswith(prompt) and "On the shelf." in text[len(prompt) :] and "On the shelf." not in prompt
    cut = HTTPReward("r", service, tokenizer)
    cut.score([Answer(PROMPT, "On the shelf.", ended=False)])
    assert len(sent[-1][0][0]) < len(text)  # no end token


class Says(Reporter):
    def __init__(self):
        self.said = []

    def notice(self, text):
        self.said.append(text)


@pytest.mark.parametrize("proven", [False, True])
@pytest.mark.parametrize(("right", "warned"), [(0, True), (len(PAIRS) // 2, True), (len(PAIRS) // 2 + 1, False)])
def test_a_model_that_prefers_noise_is_warned_of_unless_it_is_known_to_be_right(right, warned, proven):
    class Fixed(ModelReward):
        def __init__(self):
            self.name, self.proven = "r", proven

        def score(self, answers):
            return torch.tensor([x for i in range(len(PAIRS)) for x in ((1.0, 0.0) if i < right else (0.0, 1.0))])

    says = Says()
    preflight([Fixed()], [Row("p")], says)
    assert bool(says.said) == (warned and not proven)
    assert not says.said or f"only {right} of {len(PAIRS)}" in says.said[0]


@pytest.mark.parametrize(
    ("interval", "proven"), [([0.51, 0.7], True), ([0.5, 0.7], False), ([0.2, 0.4], False), (None, False)]
)
def test_what_is_known_to_be_right_is_what_did_better_than_a_coin_on_its_held_out_pairs(
    make_artifact, store, tokenizer, monkeypatch, interval, proven
):
    metrics = {} if interval is None else {"accuracy_ci95": interval}
    make_artifact("rm", metrics=metrics)
    reference = resolve("rm", store, with_base=False)
    monkeypatch.setattr(sources, "load_tokenizer", lambda *_: tokenizer)
    monkeypatch.setattr(sources, "is_scorer", lambda _: True)
    spec = RewardSpec("rm", "rm", reference)
    model = tiny_scorer(vocab=len(tokenizer), layers=1)
    loaded = sources.load_reward(spec, tokenizer, dtype=torch.float32, device=torch.device("cpu"), reporter=SILENT,
                                 model=model)  # fmt: skip
    assert loaded.proven == proven and loaded.same_ids


def test_the_label_and_the_dtype_of_a_reward_reach_the_model_that_is_loaded(monkeypatch, tokenizer, store):
    asked = {}

    def load(reference, tokenizer, **more):
        asked.update(more)
        return tiny_scorer(vocab=len(tokenizer), layers=1)

    monkeypatch.setattr(sources, "load_scorer", load)
    monkeypatch.setattr(sources, "is_scorer", lambda _: True)
    spec = RewardSpec("r", "tiny", resolve("tiny", store), label="helpfulness")
    sources.load_reward(spec, None, dtype=torch.bfloat16, device=torch.device("cpu"), reporter=SILENT)
    assert asked == {"label": "helpfulness", "dtype": torch.bfloat16, "device": torch.device("cpu")}


def test_a_margin_that_is_not_a_number_names_its_reward_and_answer(monkeypatch):
    source = SimpleNamespace(score=lambda answers: torch.tensor([1.0, torch.nan]))
    monkeypatch.setattr(dpo, "load_reward", lambda *_, **__: source)
    inputs = SimpleNamespace(config=DPOConfig(reward=("rm",)), rewards=[RewardSpec("rm", "rm", None)])
    run = SimpleNamespace(inputs=inputs, dtype=None, opens_on=None, reporter=SILENT, as_gathered=nullcontext)
    rows = [Row(prompt="p", chosen="good", rejected="bad")]
    with pytest.raises(ArtifactError, match="reward rm gives nan for the answer 'bad'"):
        dpo.add_margins(run, [rows], None)
