"""Log-probabilities, values and scores against one row at a time, unpadded, through the models' plain forward."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from tiny_models import ARCHITECTURES, tiny_lm, tiny_scorer

from prefcli.errors import ArtifactError, DataError
from prefcli.models.logps import language_model_head, sequence_scores, token_logps, token_values
from prefcli.models.rows import pad_rows

PROMPTS = [[0, 5, 9], [0, 3, 4, 8, 2, 7, 6], [0], [0, 11]]
COMPLETIONS = [[4, 1], [9], [2, 2, 7, 3, 1], [0, 0, 6]]  # 0 is the padding id, and stands inside an answer too
WIDTH = 5


def naive_logps(model, prompt, completion, temperature):
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    tables = [torch.log_softmax(logits[len(prompt) - 1 + t].double() / temperature, -1) for t in range(len(completion))]
    logps = [table[token].item() for table, token in zip(tables, completion)]
    entropies = [-sum(x.exp() * x for x in table).item() for table in tables]
    return logps, entropies


def naive_score(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits.item()


def with_lora(model, task):
    torch.manual_seed(7)
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type=task, init_lora_weights=False))
    if task == TaskType.SEQ_CLS:  # PEFT trains a copy of the head: it must be the copy that is read
        with torch.no_grad():
            model.score.modules_to_save["default"].weight.add_(0.5)
    return model.eval()


def check_logps(model, temperature=0.7):
    found = token_logps(model, pad_rows(PROMPTS, COMPLETIONS), temperature)
    assert found.logps.dtype == torch.float32
    for b, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS)):
        logps, entropies = naive_logps(model, prompt, completion, temperature)
        n, padding = len(completion), [0.0] * (WIDTH - len(completion))
        assert found.logps[b].tolist() == pytest.approx(logps + padding, abs=1e-4)
        assert found.entropy[b].tolist() == pytest.approx(entropies + padding, abs=1e-4)
        assert found.mask[b].tolist() == [True] * n + [False] * (WIDTH - n)


def check_values(model):
    rows = pad_rows(PROMPTS, COMPLETIONS)
    found = token_values(model, rows)
    for b, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS)):
        ids = prompt + completion
        expected = [naive_score(model, ids[: len(prompt) + t]) for t in range(len(completion))]
        assert found[b].tolist() == pytest.approx(expected + [0.0] * (WIDTH - len(completion)), abs=1e-4)
    scores = [naive_score(model, prompt + completion) for prompt, completion in zip(PROMPTS, COMPLETIONS)]
    assert sequence_scores(model, rows).tolist() == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logps_equal_one_row_at_a_time(architecture):
    check_logps(tiny_lm(architecture, seed=2))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_values_and_scores_equal_one_row_at_a_time(architecture):
    model = tiny_scorer(architecture, seed=2)
    assert model.config.pad_token_id is None
    check_values(model)
    assert model.config.pad_token_id is None


def test_scores_do_not_move_where_the_padding_id_stands_inside_a_row():
    model = tiny_scorer(seed=2)
    rows = pad_rows(PROMPTS, COMPLETIONS)
    before = sequence_scores(model, rows)
    model.config.pad_token_id = 6  # the last token of one answer
    torch.testing.assert_close(sequence_scores(model, rows), before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_take_part(architecture):
    plain = tiny_lm(architecture, seed=2)
    before = token_logps(plain, pad_rows(PROMPTS, COMPLETIONS)).logps
    adapted = with_lora(plain, TaskType.CAUSAL_LM)
    check_logps(adapted)
    assert (token_logps(adapted, pad_rows(PROMPTS, COMPLETIONS)).logps - before).abs().max() > 0.1
    check_values(with_lora(tiny_scorer(architecture, seed=2), TaskType.SEQ_CLS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ddp_wrapped_models_give_the_same(architecture, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrap = torch.nn.parallel.DistributedDataParallel
        rows = pad_rows(PROMPTS, COMPLETIONS)
        for model, measure in (
            (tiny_lm(architecture), lambda m: token_logps(m, rows).logps),
            (tiny_scorer(architecture), lambda m: token_values(m, rows)),
        ):
            expected, wrapped = measure(model), wrap(model)
            found = measure(wrapped)
            torch.testing.assert_close(found, expected)
            found.sum().backward()
            assert all(p.grad is not None for p in wrapped.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_the_head_runs_on_completion_positions_alone_and_the_fallback_gives_the_same(monkeypatch):
    model, rows, sizes = tiny_lm(), pad_rows(PROMPTS, COMPLETIONS), []
    hook = model.lm_head.register_forward_hook(lambda _m, _i, output: sizes.append(tuple(output.shape[:2])))
    narrowed = token_logps(model, rows)
    assert sizes == [(1, sum(map(len, COMPLETIONS)))]
    monkeypatch.setattr("prefcli.models.logps.language_model_head", lambda _model: None)
    full = token_logps(model, rows)
    assert sizes[1] == rows.input_ids.shape
    hook.remove()
    torch.testing.assert_close(narrowed, full)
    assert language_model_head(model)._forward_pre_hooks == {}


def test_gradients_equal_those_of_one_row_at_a_time():
    model, rows = tiny_lm(), pad_rows(PROMPTS, COMPLETIONS)
    (token_logps(model, rows, 0.7).logps.sum()).backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for prompt, completion in zip(PROMPTS, COMPLETIONS):
        logits = model(torch.tensor([prompt + completion])).logits[0] / 0.7
        for t, token in enumerate(completion):
            torch.log_softmax(logits[len(prompt) - 1 + t], -1)[token].backward(retain_graph=True)
    torch.testing.assert_close(found, [p.grad for p in model.parameters()], atol=1e-4, rtol=1e-4)


def test_selecting_rows_keeps_their_logps():
    model, rows, index = tiny_lm(), pad_rows(PROMPTS, COMPLETIONS), torch.tensor([3, 0])
    part = rows.select(index)
    assert part.input_ids.shape[1] == 5  # cut to the longest that is left
    torch.testing.assert_close(token_logps(model, part).logps, token_logps(model, rows).logps[index, :3])


def test_entropy_carries_gradients_only_when_asked():
    model, rows = tiny_lm(), pad_rows(PROMPTS, COMPLETIONS)
    assert not token_logps(model, rows).entropy.requires_grad
    assert token_logps(model, rows, entropy_grad=True).entropy.requires_grad


def test_a_model_without_a_score_head_is_refused():
    with pytest.raises(ArtifactError, match="score"):
        token_values(tiny_lm(), pad_rows(PROMPTS, COMPLETIONS))


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(DataError, match="no tokens"):
        pad_rows([[0], []], [[1], [1]])
