"""Sampling against transformers' own loop, and against the softmax it should draw from."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_lm

from prefcli.errors import DataError
from prefcli.models.generation import generate

PROMPTS = [[0, 5, 9], [0, 3, 4, 8, 2, 7, 6], [0], [0, 11], [0, 12, 13, 14, 15]]


def transformers_greedy(model, prompt, max_new_tokens, eos_ids):
    found = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        max_new_tokens=max_new_tokens, eos_token_id=list(eos_ids), pad_token_id=0,
    )  # fmt: skip
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_greedy_equals_transformers_token_by_token(architecture, batch_size):
    model = tiny_lm(architecture, seed=3)
    free = [transformers_greedy(model, prompt, 12, [31]) for prompt in PROMPTS]
    # Tokens that occur at different places of the free answers end them there, so that rows leave the batch in turn.
    eos_ids = {free[0][2], free[1][6], free[3][1]}
    expected = [transformers_greedy(model, prompt, 12, eos_ids) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) >= 3
    found = generate(model, PROMPTS, max_new_tokens=12, eos_ids=eos_ids, greedy=True, batch_size=batch_size)
    assert found == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sampled_frequencies_of_the_first_two_tokens_agree_with_the_softmax(architecture):
    model, temperature, draws = tiny_lm(architecture, seed=1, vocab=5, scale=0.3), 0.7, 4000
    prompt = [0, 3]
    with torch.no_grad():
        first = torch.softmax(model(torch.tensor([prompt])).logits[0, -1] / temperature, -1)
        extended = torch.tensor([prompt + [token] for token in range(5)])
        second = torch.softmax(model(extended).logits[:, -1] / temperature, -1)
    # The longer neighbour forces left padding onto the prompt that is counted.
    neighbours = [[0, 1, 2, 3]] * 8
    answers = generate(
        model, [prompt] * draws + neighbours, max_new_tokens=2, eos_ids=[], temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    counts = torch.zeros(5, 5)
    for a, b in answers[:draws]:
        counts[a, b] += 1
    expected = first[:, None] * second * draws
    assert expected.min() > 5
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 51.2  # 24 degrees of freedom, p = 0.001


def test_an_answer_ends_with_its_eos_and_holds_nothing_after_it():
    answers = generate(
        tiny_lm(vocab=6), [[0, 2]] * 200, max_new_tokens=5, eos_ids={1, 4}, generator=torch.Generator().manual_seed(0)
    )
    ends = [answer[-1] in {1, 4} for answer in answers]
    assert any(ends) and not all(ends)
    for answer, ended in zip(answers, ends):
        assert len(answer) == 5 or ended
        assert not {1, 4} & set(answer[:-1])


def test_the_same_generator_state_gives_the_same_answers():
    model = tiny_lm()

    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        return generate(model, PROMPTS, max_new_tokens=8, eos_ids=[1], generator=generator)

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)


def test_training_flags_are_restored_module_by_module():
    model = tiny_lm()
    model.model.layers[0].train()
    before = [module.training for module in model.modules()]
    assert any(before) and not all(before)
    generate(model, [[0]], max_new_tokens=2, eos_ids=[1])
    assert [module.training for module in model.modules()] == before


def test_progress_counts_every_answer_once():
    seen = []
    generate(tiny_lm(), PROMPTS, max_new_tokens=2, eos_ids=[1], batch_size=2, progress=seen.append)
    assert seen == [2, 2, 1]


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(DataError, match="no tokens"):
        generate(tiny_lm(), [[0], []], max_new_tokens=2, eos_ids=[1])
