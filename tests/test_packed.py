"""The packed forward against each row alone through the model's own forward, and against TRL's own trainers."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_rl_logps import PROMPTS, naive_logps, naive_score
from test_rl_ppo import PROMPTS as PPO_PROMPTS
from test_rl_ppo import make, weights
from tiny_models import ARCHITECTURES, MORE, tiny_lm, tiny_scorer
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GptOssConfig,
    Llama4TextConfig,
    MistralConfig,
    PretrainedConfig,
)
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from prefcli.models import logps as logps_module
from prefcli.models import packed_attention
from prefcli.models.logps import SelectedLogps, sequence_scores, token_logps, token_values
from prefcli.models.packed import pack
from prefcli.models.packed_attention import PACKED, Allowed, _in_groups, _one_by_one, _takes_all_at_once
from prefcli.models.rows import Rows, pad_rows, parts
from prefcli.models.shared import SharedRole
from prefcli.stages import reference as reference_module
from prefcli.stages import trl_trainer
from prefcli.stages.sft import demo_rows

EVERY = (*ARCHITECTURES, *MORE)
# Three answers to one prompt, two to another, one to a third, and a fourth prompt that begins like the third.
SHARED = [PROMPTS[1]] * 3 + [PROMPTS[0]] * 2 + [PROMPTS[2], PROMPTS[3]]
ANSWERS = [[4, 1, 7, 2, 2], [9], [2, 2, 7, 3, 1, 8], [0, 0, 6], [5], [3, 4, 5], [1]]


def packed(model):
    assert pack(model) is None
    return model


def rows():
    return pad_rows(SHARED, ANSWERS)


@pytest.mark.parametrize("architecture", EVERY)
def test_logps_and_entropies_equal_each_row_alone(architecture):
    model = tiny_lm(architecture, seed=2)
    expected = [naive_logps(model, p, a, 0.7) for p, a in zip(SHARED, ANSWERS)]
    found = token_logps(packed(model), rows(), 0.7)
    for b, (logps, entropies) in enumerate(expected):
        assert found.logps[b, : len(logps)].tolist() == pytest.approx(logps, abs=1e-4)
        assert found.entropy[b, : len(logps)].tolist() == pytest.approx(entropies, abs=1e-4)


@pytest.mark.parametrize("architecture", EVERY)
def test_values_and_scores_equal_each_row_alone(architecture):
    model = tiny_scorer(architecture, seed=2)
    values = [[naive_score(model, p + a[:t]) for t in range(len(a))] for p, a in zip(SHARED, ANSWERS)]
    scores = [naive_score(model, p + a) for p, a in zip(SHARED, ANSWERS)]
    found = token_values(packed(model), rows())
    for b, expected in enumerate(values):
        assert found[b, : len(expected)].tolist() == pytest.approx(expected, abs=1e-4)
    assert sequence_scores(model, rows()).tolist() == pytest.approx(scores, abs=1e-4)


def gradients(model, figure):
    model.zero_grad()
    figure(model).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(model, figure):
    expected = gradients(model, figure)
    found = gradients(packed(model), figure)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


def weighted(model):
    """A figure that asks something else of every token, and of the entropies."""
    found = token_logps(model, rows(), 0.7, entropy_grad=True)
    scale = torch.arange(found.logps.numel()).view_as(found.logps).sin()
    return (scale * found.logps).sum() + 0.3 * (scale.cos() * found.entropy).sum()


@pytest.mark.parametrize("architecture", EVERY)
def test_gradients_equal_the_padded_ones(architecture):
    check_gradients(tiny_lm(architecture, seed=2), weighted)


def test_gradients_of_values_equal_the_padded_ones():
    check_gradients(tiny_scorer(seed=2), lambda model: token_values(model, rows()).square().sum())


def test_gradients_with_an_adapter_and_with_checkpointing():
    torch.manual_seed(0)
    adapted = get_peft_model(tiny_lm(seed=2), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    check_gradients(adapted, weighted)
    model = tiny_lm(seed=2)
    expected = gradients(model, weighted)
    model.gradient_checkpointing_enable()
    model.train()
    calls = []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    found = gradients(packed(model), weighted)
    assert len(calls) == 5  # the check runs it three times; then once, and once more when gradients are computed
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-3)


def test_bfloat16_is_as_near_as_the_format_allows():
    model = tiny_lm(seed=2)
    exact = token_logps(model, rows()).logps
    half = copy.deepcopy(model).bfloat16()
    assert (token_logps(packed(half), rows()).logps - exact).abs().max() < 0.2
    with torch.autocast("cpu", torch.bfloat16):
        assert (token_logps(packed(model), rows()).logps - exact).abs().max() < 0.2


def test_a_prompt_stands_once_and_nothing_is_padded():
    layout = rows().layout
    once = [PROMPTS[1], *ANSWERS[:3], PROMPTS[0], *ANSWERS[3:5], PROMPTS[2], ANSWERS[5], PROMPTS[3], ANSWERS[6]]
    assert layout.input_ids.tolist() == [[token for piece in once for token in piece]]
    model, seen = packed(tiny_lm()), []
    model.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    token_logps(model, rows())
    assert seen == [sum(map(len, once))]


def test_the_head_runs_on_completion_tokens_alone_and_in_chunks(monkeypatch):
    model = packed(tiny_lm(seed=2))
    sizes = []
    model.lm_head.register_forward_hook(lambda _, args, output: sizes.append(output.numel() // output.shape[-1]))
    whole = gradients(model, weighted)
    assert sizes == [0, sum(map(len, ANSWERS))]
    sizes.clear()
    monkeypatch.setattr(logps_module, "CHUNK_BYTES", 4 * 32 * 6)  # six positions of a vocabulary of 32
    chunked = gradients(model, weighted)
    assert max(sizes) == 6 and sum(sizes) == 2 * sum(map(len, ANSWERS))  # each once more for the gradients
    for name, gradient in whole.items():
        torch.testing.assert_close(chunked[name], gradient, atol=1e-6, rtol=1e-5)


def test_selected_logps_and_entropy_against_autograd():
    torch.manual_seed(0)
    logits = (4 * torch.randn(7, 11, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(0, 11, (7,))
    found = SelectedLogps.apply(logits, targets)
    every = torch.log_softmax(logits, -1)
    torch.testing.assert_close(found[0], every[torch.arange(7), targets])
    torch.testing.assert_close(found[1], -(every.exp() * every).sum(-1))
    assert found[2].tolist() == (logits.argmax(-1) == targets).tolist()
    assert torch.autograd.gradcheck(lambda x: SelectedLogps.apply(x, targets)[:2], logits)


def test_a_token_that_cannot_be_drawn_leaves_the_entropy_finite():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]], requires_grad=True)
    logps, entropy, _ = SelectedLogps.apply(logits, torch.tensor([1]))
    (logps.sum() + entropy.sum()).backward()
    assert torch.isfinite(logps).all() and torch.isfinite(entropy).all() and torch.isfinite(logits.grad).all()


def seen_by(window):
    """What transformers' masks of a sliding window, or of none, say of two positions."""
    if window is None:
        return Allowed(causal_mask_function, None, True)
    return Allowed(sliding_window_causal_mask_function(window), window, True)


def test_the_mask_against_brute_force():
    layout = rows().layout
    size = layout.input_ids.shape[1]
    sees = [[False] * size for _ in range(size)]
    # by hand: the place of every token of every padded row, then who stands before whom in any of those rows
    for row, (prompt, answer) in enumerate(zip(SHARED, ANSWERS)):
        places = layout.index[row, : len(prompt) + len(answer)].tolist()
        for t, query in enumerate(places):
            for distance, key in enumerate(reversed(places[: t + 1])):
                sees[query][key] = distance < 4
    dense = torch.zeros(size, size, dtype=torch.bool)
    for number, (start, end, _) in enumerate(layout.spans):
        dense[start:end, start:end] = layout.mask(number, seen_by(4))
    assert dense.tolist() == sees


@pytest.mark.parametrize("window", [None, 4])
def test_attention_in_groups_is_attention_prompt_by_prompt(window):
    torch.manual_seed(0)
    prompts = [[3] * 2, [4] * 9, [4] * 9, [5] * 3, [6] * 30]  # 3, 16, 5 and 31 tokens with their answers
    layout = pad_rows(prompts, [[7] * n for n in (1, 2, 5, 2, 1)]).layout
    size = layout.input_ids.shape[1]
    assert [len(group.index) for group in layout.groups] == [1, 2, 1]
    q, k, v = (torch.randn(1, 2, size, 8, requires_grad=True) for _ in range(3))
    outputs = [
        each(q, k, v, layout, seen_by(window), dropout=0.0, scale=None, cap=None, sinks=None)
        for each in (_one_by_one, _in_groups)
    ]
    torch.testing.assert_close(outputs[1], outputs[0])
    weights = torch.randn_like(outputs[0])
    one, other = (torch.autograd.grad((output * weights).sum(), (q, k, v)) for output in outputs)
    torch.testing.assert_close(other, one)


def plain_varlen(
    query, key, value, query_ends, key_ends, longest_query, longest_key, *, scale, window_size, enable_gqa
):
    """What torch documents of its kernel: sequence by sequence, grouped heads, the last query sees the last key."""
    assert enable_gqa and window_size == (-1, 0) and query.is_contiguous()
    assert query_ends.dtype == key_ends.dtype == torch.int32
    lengths = [ends.diff().tolist() for ends in (query_ends, key_ends)]
    assert [longest_query, longest_key] == [max(each) for each in lengths]
    found = []
    for q, k, v in zip(query.split(lengths[0]), key.split(lengths[1]), value.split(lengths[1]), strict=True):
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        last = len(k) - len(q)
        hidden = torch.arange(len(k))[None] > torch.arange(len(q))[:, None] + last
        found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v))
    return torch.cat(found)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_attention_over_many_lengths_equals_prompt_by_prompt(architecture, monkeypatch):
    """The kernel itself runs on GPUs; what it is handed is the same here."""
    model = packed(tiny_lm(architecture, seed=2))
    wanted = ("a prompt of its own", "an answer without tokens")
    batches = [rows(), pad_rows(SHARED, [*ANSWERS[:1], [], *ANSWERS[2:]])]
    calls = []
    for name, batch in zip(wanted, batches):
        expected = gradients(model, lambda m, b=batch: token_logps(m, b).logps.sum())
        logps = token_logps(model, batch).logps
        with monkeypatch.context() as patch:
            calls.clear()
            patch.setattr(packed_attention, "_takes_all_at_once", lambda *_: not calls.append(1))
            patch.setattr(packed_attention, "varlen_attn", plain_varlen)
            torch.testing.assert_close(token_logps(model, batch).logps, logps, msg=name)
            found = gradients(model, lambda m, b=batch: token_logps(m, b).logps.sum())
        assert calls
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, msg=name)


def test_many_lengths_at_once_is_for_gpus_in_16_bits_and_plain_causal_masks():
    layout, none = rows().layout, {"dropout": 0.0, "scale": None, "cap": None, "sinks": None}
    assert not _takes_all_at_once(torch.zeros(1, 2, 3, 8), layout, seen_by(None), none)
    query = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, shape=(1, 2, 3, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
        assert _takes_all_at_once(query, layout, seen_by(None), none)
        for changed in ({"dropout": 0.1}, {"cap": 30.0}, {"sinks": torch.zeros(2)}):
            assert not _takes_all_at_once(query, layout, seen_by(None), none | changed)
        assert not _takes_all_at_once(query, layout, seen_by(4), none)  # shorter than the longest row
        for other in ({"dtype": torch.float32}, {"shape": (1, 2, 3, 512)}):
            assert not _takes_all_at_once(SimpleNamespace(**vars(query) | other), layout, seen_by(None), none)
        patch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
        assert not _takes_all_at_once(query, layout, seen_by(None), none)


def test_a_packed_model_still_runs_on_padded_batches_and_with_a_cache():
    for architecture in ("gemma2", "llama"):
        model, ids = tiny_lm(architecture, seed=2), torch.tensor([[3, 4, 8, 2, 7, 6]])
        expected = model(ids).logits
        torch.testing.assert_close(packed(model)(ids).logits, expected, atol=1e-5, rtol=1e-4)
        before = model(ids[:, :4], use_cache=True)
        after = model(ids[:, 4:], past_key_values=before.past_key_values, use_cache=True).logits
        torch.testing.assert_close(after, expected[:, 4:], atol=1e-5, rtol=1e-4)


def test_heads_that_share_keys_ask_for_the_next_token_together(monkeypatch):
    """Prompts of one length need no mask, and without one the kernel would get the keys once for each head."""
    model = packed(tiny_lm("llama", seed=2))
    ids = torch.tensor([[3, 4, 8, 2], [7, 6, 5, 9]])
    expected = model(ids).logits[:, -1]
    shapes = []

    def seen(query, key, value, **how):
        shapes.append((query.shape[1:3], key.shape[1], how.get("enable_gqa", False)))
        return scaled_dot_product_attention(query, key, value, **how)

    before = model(ids[:, :-1], use_cache=True).past_key_values
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", seen)
    after = model(ids[:, -1:], past_key_values=before, use_cache=True).logits[:, -1]
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)
    heads, shared = model.config.num_attention_heads, model.config.num_key_value_heads
    assert heads > shared and set(shapes) == {(torch.Size((shared, heads // shared)), shared, False)}


SMALL = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
LIMITED: dict[str, PretrainedConfig] = {
    "a window of 50": MistralConfig(sliding_window=50, **SMALL),
    "chunks of 48": Llama4TextConfig(
        attention_chunk_size=48,
        intermediate_size_mlp=32,
        num_local_experts=2,
        no_rope_layers=[1, 0],
        attn_temperature_tuning=False,
        **SMALL,
    ),  # fmt: skip
    "sinks, a window of 40": GptOssConfig(sliding_window=40, num_local_experts=2, num_experts_per_tok=1, **SMALL),
}


@pytest.mark.parametrize("limit", LIMITED)
def test_a_limit_beyond_the_rows_of_the_check_holds_for_longer_rows(limit):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LIMITED[limit], attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    tokens = torch.randint(2, 32, (400,)).tolist()
    prompts = [tokens[:60], tokens[:60], tokens[60:100], tokens[100:103]]
    answers = [tokens[110:140], tokens[140:210], tokens[210:300], tokens[300:390]]
    expected = [naive_logps(model.eval(), p, a, 1.0)[0] for p, a in zip(prompts, answers)]
    found = token_logps(packed(model), pad_rows(prompts, answers)).logps
    for row, logps in enumerate(expected):
        assert found[row, : len(logps)].tolist() == pytest.approx(logps, abs=1e-4)


def test_a_layer_that_goes_by_places_from_a_length_on_is_found_below_that_length():
    torch.manual_seed(0)
    options = {"intermediate_size_mlp": 32, "num_local_experts": 2, "no_rope_layers": [1, 0]}
    model = AutoModelForCausalLM.from_config(Llama4TextConfig(attn_scale=10.0, floor_scale=8192, **options, **SMALL))
    assert "beyond floor_scale" in pack(model)
    assert model.config.floor_scale == model.model.layers[1].self_attn.floor_scale == 8192
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("alone", [True, False])
def test_a_limit_at_which_packed_rows_alone_fail_is_one_and_a_size_is_none(alone):
    model = tiny_lm(seed=2)
    model.config.a_window, inner = 50, model.model.forward

    def forward(*args, **kwargs):
        if model.config.a_window == 16 and (not alone or model.config._attn_implementation == PACKED):
            raise RuntimeError("no such kernel")
        return inner(*args, **kwargs)

    model.model.forward = forward
    reason = pack(model)
    assert (reason is not None and "beyond a_window (no such kernel)" in reason) if alone else reason is None
    assert model.config._attn_implementation == ("sdpa" if alone else PACKED) and model.config.a_window == 50


def test_a_model_that_does_not_follow_stays_on_padded_rows():
    bloom = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2)).eval()
    assert "does not let its attention be set" in pack(bloom)
    leaking = tiny_lm(seed=2)
    inner = leaking.model.forward
    leaking.model.forward = lambda *args, layout=None, **kwargs: inner(*args, **kwargs)
    assert "answers see each other" in pack(leaking) or "off by" in pack(leaking)
    scaled = tiny_lm(seed=2)  # what comes after the head is done to padded rows alone
    scaled.register_forward_hook(lambda _, args, output: output.__setitem__("logits", output.logits * 2))
    assert "off by" in pack(scaled)
    deaf = tiny_lm(seed=2)
    forward = deaf.forward
    deaf.forward = lambda input_ids, attention_mask=None, use_cache=None: forward(input_ids, attention_mask)
    assert "fails on packed rows" in pack(deaf)
    on_it = SharedRole(get_peft_model(scaled, LoraConfig(target_modules=["q_proj"])), None, torch.nn.Linear(16, 1))
    assert "off by" in pack(on_it)  # its own figures would be right
    for model in (bloom, leaking, scaled, deaf):
        assert model.config._attn_implementation != PACKED


def test_parts_keep_to_the_budget_and_lose_nothing():
    costs = [5, 900, 30, 700, 300, 400, 2, 1200]
    found = parts(costs, 1000)
    assert sorted(i for part in found for i in part) == list(range(len(costs)))
    assert [sum(costs[i] for i in part) for part in found] == [1200, 937, 1000, 400]
    assert found[0] == [7] and all(part == sorted(part) for part in found)


def test_demonstrations_read_the_tokens_that_are_marked():
    examples = [
        {"input_ids": [3, 4, 5, 6, 7, 8], "completion_mask": [0, 0, 1, 0, 1, 1]},
        {"input_ids": [9, 2, 1], "completion_mask": [1, 1, 1]},  # nothing stands before the first, so it is not read
    ]
    found = demo_rows(examples, torch.device("cpu"))
    assert found.targets.tolist() == [5, 7, 8, 2, 1]
    assert found.prompt_lengths.tolist() == [2, 1]
    model = tiny_lm(seed=2)
    logits = [torch.log_softmax(model(torch.tensor([e["input_ids"]])).logits[0], -1) for e in examples]
    expected = [logits[0][1, 5], logits[0][3, 7], logits[0][4, 8], logits[1][0, 2], logits[1][1, 1]]
    for way in (model, packed(model)):
        assert token_logps(way, found).logps.sum().item() == pytest.approx(sum(expected).item(), abs=1e-4)
    part = found.select(torch.tensor([1]))
    assert isinstance(part, Rows) and part.targets.tolist() == [2, 1]


def test_ppo_makes_the_same_steps_on_packed_rows():
    plain, other = make(kl_coef=0.2, minibatches=2), make(kl_coef=0.2, minibatches=2)
    for model in (other.roles.policy, other.roles.value, other.roles.reference):
        packed(model)
    other.tokens_per_row = 20
    for _ in range(2):
        expected, found = plain.step(PPO_PROMPTS), other.step(PPO_PROMPTS)
        for name in ("objective/kl", "objective/scores", "loss/value_avg", "policy/entropy_avg", "grad_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    for mine, theirs in zip(weights(other), weights(plain)):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def by_trl(monkeypatch):
    """Has TRL's own steps made, on padded rows, as under DeepSpeed."""

    def switch():
        for stage in ("sft", "reward", "dpo", "trl_trainer"):
            monkeypatch.setattr(f"prefcli.stages.{stage}.under_deepspeed", lambda: True)

    return switch


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo"])
def test_a_stage_makes_the_steps_that_trl_makes(chain, prefcli, by_trl, stage):
    options = [
        "--force",
        "--max-steps",
        "3",
        "--grad-accum",
        "2",
        "--eval-data",
        chain.data("demos" if stage == "sft" else "held_out_pairs"),
    ]
    padded = metrics(chain.path_of(prefcli(*chain.args(stage), *options, "--no-packed")))
    mine = metrics(chain.path_of(prefcli(*chain.args(stage), *options, "--tokens-per-row", "100")))
    by_trl()
    theirs = metrics(chain.path_of(prefcli(*chain.args(stage), *options, "--no-packed")))
    assert len(mine) == len(padded) == len(theirs) == 4  # three steps, and the held-out rows
    compared = set()
    for found, expected in [*zip(mine, theirs), *zip(padded, theirs)]:
        # TRL's metrics by the token are means of the parts' and batches' means (tests/test_figures.py has ours)
        by_token = {f"{part}{name}" for part in ("", "eval_") for name in ("entropy", "mean_token_accuracy")}
        by_token |= {"eval_loss"} if stage == "sft" else set()
        names = found.keys() & expected.keys() - {"epoch", "step", "time/step", "time/eval"} - by_token
        compared |= names
        if expected.get("rewards/margins") == 0:  # here but for rounding: the reference's figures are of other rows
            names -= {"rewards/accuracies"}
        for name in names:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    for found, expected in zip(mine, padded):
        for name in by_token & found.keys():
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    wanted = {"sft": set(), "rm": {"accuracy", "margin", "mean_reward"},
              "dpo": {"logps/chosen", "logps/rejected", "rewards/margins", "rewards/accuracies"}}[stage]  # fmt: skip
    assert {"loss", "grad_norm", "num_tokens", *({"eval_loss"} - by_token)} | wanted <= compared


@pytest.mark.parametrize(
    ("stage", "more"), [("sft", ()), ("rm", ()), ("dpo", ()), ("dpo", ("--lora-rank", "4")), ("orpo", ()), ("kto", ())]
)
def test_a_stage_trains_a_model_that_runs_packed(chain, prefcli, monkeypatch, stage, more):
    seen = []
    run = trl_trainer.run
    monkeypatch.setattr(
        trl_trainer, "run", lambda session, trainer, *args: seen.append(trainer.model) or run(session, trainer, *args)
    )
    args = chain.args(stage) if stage in ("sft", "rm") else [stage, *chain.args("dpo")[1:]]
    chain.path_of(prefcli(*args, *more, "--max-steps", "1", "--name", "packed"))
    assert [logps_module.runs_packed(model) for model in seen] == [True]


def test_the_references_figures_are_kept_for_later_epochs_and_for_re_runs(chain, prefcli, monkeypatch):
    calls = []
    plain = reference_module.token_logps
    monkeypatch.setattr(reference_module, "token_logps", lambda *args: calls.append(1) or plain(*args))
    loaded = []
    load = reference_module.load_policy
    monkeypatch.setattr(reference_module, "load_policy", lambda *args, **more: loaded.append(1) or load(*args, **more))
    for path in (chain.runs / ".cache").rglob("*.safetensors"):
        path.unlink()
    once = ["dpo", "--model", "sft@v1", "--data", chain.data("pairs"), "--batch-size", "32", "--tokens-per-row", "4000"]
    first = chain.path_of(prefcli(*once, "--epochs", "3"))
    assert (len(calls), len(loaded)) == (1, 1)  # in the first of three epochs, which is one step
    again = chain.path_of(prefcli(*once, "--epochs", "3", "--force"))
    assert (len(calls), len(loaded)) == (1, 1)  # the frozen model was not even opened
    assert [m["loss"] for m in metrics(again)] == pytest.approx([m["loss"] for m in metrics(first)], abs=1e-6)
    chain.path_of(prefcli(*once, "--epochs", "3", "--beta", "0.3"))
    assert len(calls) == 1
    chain.path_of(prefcli(*once, "--epochs", "1", "--reference", "tiny"))
    assert (len(calls), len(loaded)) == (2, 2)  # another reference
    for path in (chain.runs / ".cache").rglob("*.safetensors"):
        path.write_bytes(b"cut")
    chain.path_of(prefcli(*once, "--epochs", "1", "--force", "--beta", "0.2"))
    assert len(calls) == 3  # a broken file is made again


def test_dpo_with_an_adapter_takes_the_policy_without_it_as_the_reference(chain, prefcli, by_trl):
    options = ["--lora-rank", "2", "--max-steps", "3"]
    mine = metrics(chain.path_of(prefcli(*chain.args("dpo"), *options)))
    by_trl()
    theirs = metrics(chain.path_of(prefcli(*chain.args("dpo"), *options, "--no-packed")))
    for found, expected in zip(mine, theirs):
        assert found["rewards/margins"] == pytest.approx(expected["rewards/margins"], rel=1e-3, abs=1e-6)
    assert abs(mine[-1]["rewards/margins"]) > 0


def test_weights_that_deepspeed_has_split_go_the_padded_way(monkeypatch):
    from prefcli.stages import session

    monkeypatch.setattr(session, "pack", lambda model: pytest.fail("packed"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    from prefcli.stages.session import Session

    said = []

    class Run:
        split = staticmethod(lambda model: None)
        inputs = type("I", (), {"config": type("C", (), {"packed": True})})
        reporter = type("R", (), {"notice": staticmethod(said.append)})

    assert Session.packs(Run, None, "policy") is False
    assert said == ["the policy runs on padded rows: DeepSpeed holds its weights"]


def test_what_is_saved_opens_without_the_packed_attention(chain):
    for stage in ("sft", "rm", "ppo", "dpo"):
        assert PACKED not in (chain.path(stage) / "model" / "config.json").read_text()
