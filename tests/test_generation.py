"""Sampling against transformers' own loop, and against the softmax it should draw from."""

from __future__ import annotations

import pytest
import torch
from tiny_models import ARCHITECTURES, MORE, tiny_lm
from transformers import BartConfig, BartForCausalLM

from prefcli.errors import DataError
from prefcli.models.classes import opens_as
from prefcli.models.generation import generate
from prefcli.models.packed import pack
from scripts.families import plain, zoo

WINDOWS = {"qwen2", "mistral", "gemma2", "gemma3"}  # their cache is of another kind, so prompts are read padded
PROMPTS = [[0, 5, 9], [0, 3, 4, 8, 2, 7, 6], [0], [0, 11], [0, 12, 13, 14, 15]]


def draws_for(answers, tokens, seed=0):
    return torch.rand(answers, tokens, generator=torch.Generator().manual_seed(seed))


def transformers_greedy(model, prompt, max_new_tokens, eos_ids):
    found = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
        max_new_tokens=max_new_tokens, eos_token_id=list(eos_ids), pad_token_id=0,
    )  # fmt: skip
    return found[0, len(prompt) :].tolist()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE])
@pytest.mark.parametrize(("packed", "batch_size"), [(False, None), (False, 2), (True, None), (True, 2)])
def test_greedy_equals_transformers_token_by_token(architecture, packed, batch_size):
    model = tiny_lm(architecture, seed=3)
    free = [transformers_greedy(model, prompt, 12, [-1]) for prompt in PROMPTS]
    # Tokens that occur at different places of the free answers end them there, so that rows leave the batch in turn.
    eos_ids = {free[0][2], free[1][6], free[3][1]}
    expected = [transformers_greedy(model, prompt, 12, eos_ids) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) >= 2
    if packed and pack(model):
        pytest.skip("stays on padded rows")
    read = []
    model.get_input_embeddings().register_forward_hook(lambda _, args, __: read.append(tuple(args[0].shape)))
    found = generate(model, PROMPTS, max_new_tokens=12, eos_ids=eos_ids, batch_size=batch_size)
    assert found == expected
    if packed and batch_size is None and architecture not in WINDOWS:  # each prompt, and the token that is predicted
        assert read[0] == (1, sum(len(prompt) + 1 for prompt in PROMPTS))


@pytest.mark.parametrize(("family", "together"), [("minimax", False), ("qwen3-next", True), ("mamba2", True)])
def test_prompts_of_a_model_with_a_state_are_padded_where_that_changes_no_token(family, together, tmp_path):
    """MiniMax's cache counts the tokens of its first layer, which has none, and its mask is shifted by them."""
    model = plain.open_model(zoo.build(family, tmp_path))
    prompts = [*PROMPTS, [0, 14, 9], [0, 2, 4], [0, 8, 8]]  # those of one length end one after the other
    free = [transformers_greedy(model, prompt, 8, [-1]) for prompt in prompts]
    eos_ids = {free[0][1], free[5][3], free[1][5]}
    expected = [transformers_greedy(model, prompt, 8, eos_ids) for prompt in prompts]
    assert len({len(expected[i]) for i in (0, 5, 6, 7)}) > 1
    assert generate(model, prompts, max_new_tokens=8, eos_ids=eos_ids) == expected
    rows = []
    model.get_input_embeddings().register_forward_hook(lambda _, args, __: rows.append(args[0].shape[0]))
    generate(model, prompts, max_new_tokens=2, eos_ids=[])
    assert rows == ([8, 8] if together else [1, 1, 1, 1, 4, 4, 1, 1, 1, 1])


def test_prompts_of_a_model_that_counts_positions_from_its_cache_are_not_padded():
    """BART's decoder is told no positions: padding on the left would be counted among them."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    model = BartForCausalLM(BartConfig(tie_word_embeddings=False, forced_eos_token_id=None, **sizes)).eval()
    with torch.no_grad():
        for matrix in (parameter for parameter in model.parameters() if parameter.ndim > 1):
            matrix.normal_()
    expected = [transformers_greedy(model, prompt, 8, [-1]) for prompt in PROMPTS]
    assert generate(model, PROMPTS, max_new_tokens=8, eos_ids=[-1]) == expected


def test_a_scorer_on_the_language_model_inside_llama_4_is_said_to_open_as_that(tmp_path):
    config = plain.open_model(zoo.build("llama4-vlm", tmp_path)).config
    assert opens_as(config, scorer=False) == ("AutoModelForImageTextToText", None)
    assert opens_as(config, scorer=True) == ("AutoModelForCausalLM", "model")


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
        draws=draws_for(draws + len(neighbours), 2),
    )  # fmt: skip
    counts = torch.zeros(5, 5)
    for a, b in answers[:draws]:
        counts[a, b] += 1
    expected = first[:, None] * second * draws
    assert expected.min() > 5
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 51.2  # 24 degrees of freedom, p = 0.001


def test_an_answer_ends_with_its_eos_and_holds_nothing_after_it():
    answers = generate(tiny_lm(vocab=6), [[0, 2]] * 200, max_new_tokens=5, eos_ids={1, 4}, draws=draws_for(200, 5))
    ends = [answer[-1] in {1, 4} for answer in answers]
    assert any(ends) and not all(ends)
    for answer, ended in zip(answers, ends):
        assert len(answer) == 5 or ended
        assert not {1, 4} & set(answer[:-1])


def test_an_answer_depends_on_its_own_draws_and_not_on_its_batch():
    model, draws = tiny_lm(), draws_for(len(PROMPTS), 8)

    def sample(index, batch_size=None):
        return generate(
            model, [PROMPTS[i] for i in index], max_new_tokens=8, eos_ids=[1], draws=draws[index], batch_size=batch_size
        )

    together = sample([0, 1, 2, 3, 4])
    assert sample([0, 1, 2, 3, 4], batch_size=2) == together
    assert sample([3, 1]) == [together[3], together[1]]
    other = generate(model, PROMPTS, max_new_tokens=8, eos_ids=[1], draws=draws_for(len(PROMPTS), 8, seed=6))
    assert other != together


def test_the_ends_of_the_distribution_are_drawn_and_nothing_that_cannot_be():
    model = tiny_lm(vocab=6)
    with torch.no_grad():
        model.lm_head.weight[0] = 0  # a logit of 0 among others far above or below it
        model.lm_head.weight[3:] = 0
    head = torch.nn.Linear(16, 6, bias=True)
    head.weight.data.copy_(model.lm_head.weight)
    head.bias.data = torch.tensor([-1e9, 0, 0, 0, 0, -1e9])
    model.lm_head = head
    draws = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])
    found = generate(model, [[0, 2]] * 2, max_new_tokens=2, eos_ids=[], draws=draws)
    assert found == [[1, 1], [4, 4]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *MORE])
def test_equal_prompts_are_read_once_and_answered_apart(architecture, packed):
    model, prompts = tiny_lm(architecture, seed=3), [PROMPTS[1]] * 3 + [PROMPTS[0]] * 2 + [PROMPTS[1]]
    if packed and pack(model):
        pytest.skip("stays on padded rows")
    draws, sizes = draws_for(6, 6), []
    model.get_input_embeddings().register_forward_hook(lambda _, args, __: sizes.append(tuple(args[0].shape)))
    found = generate(model, prompts, max_new_tokens=6, eos_ids=[1, 2], draws=draws)
    # shorter prompts first: the three and the one stand together
    assert sizes[0] == ((1, 12) if packed and architecture not in WINDOWS else (2, 7))
    alone = [
        generate(model, [p], max_new_tokens=6, eos_ids=[1, 2], draws=draws[i : i + 1])[0] for i, p in enumerate(prompts)
    ]
    assert found == alone


@pytest.mark.parametrize("draws", [draws_for(len(PROMPTS), 2), None], ids=["drawn", "most likely"])
def test_logits_that_are_not_finite_are_said(draws):
    model = tiny_lm()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(RuntimeError, match="not finite"):
        generate(model, PROMPTS, max_new_tokens=2, eos_ids=[1], draws=draws)


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


def test_tokens_are_told_as_they_are_drawn_each_to_its_completion():
    told = {i: [] for i in range(len(PROMPTS))}
    found = generate(
        tiny_lm(seed=3), PROMPTS, max_new_tokens=12, eos_ids={5, 9, 20}, batch_size=2, temperature=2.0,
        draws=draws_for(len(PROMPTS), 12), on_token=lambda i, token: told[i].append(token),
    )  # fmt: skip
    assert list(told.values()) == found and len({len(answer) for answer in found}) > 1
