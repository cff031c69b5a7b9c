"""What one of two processes does, played in one: what it adds up, which rows, draws and prompts are its own.

tests/test_processes.py starts two, and holds the whole runs against those of one.
"""

from __future__ import annotations

import copy
import signal
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from test_preference_losses import ANSWERS, MODELS, PAIRS, our_dpo, our_kto
from test_rl_ppo import PROMPTS, make
from tiny_models import tiny_lm
from transformers import AutoModelForCausalLM

from prefcli import stopping
from prefcli.artifacts.references import TINY
from prefcli.artifacts.store import Draft
from prefcli.config.dpo import DPOConfig
from prefcli.errors import ArtifactError, UsageError
from prefcli.models.adapters import merged, save_model
from prefcli.stages.environment import refuse_elsewhere
from prefcli.stages.ppo import Position, States, _share, answers_of
from prefcli.stages.resuming import Resuming, whole_weights
from prefcli.stages.steps import Steps
from prefcli.stopping import Phase


class OneOfTwo:
    """An accelerator of process `rank`, where the other one adds `others` to every sum."""

    def __init__(self, inner, rank=0, others=0.0):
        self._inner, self.num_processes, self.process_index, self._others = inner, 2, rank, others

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def reduce(self, tensor, reduction="sum"):
        assert reduction == "sum"
        return tensor + torch.as_tensor(self._others)


def gradients_as_one_of_two(trainer, batch, others):
    """(loss, gradients) of a step whose other process has so many units."""
    trainer.accelerator = OneOfTwo(trainer.accelerator, others=others)
    trainer._over_processes = lambda sums: sums
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    parts, units = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    loss = trainer.training_step(trainer.model, parts[0], units)
    return float(loss), [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]


@pytest.mark.parametrize("others", [3.0, 9.0])
def test_a_step_is_averaged_over_the_units_of_all_processes_whose_gradients_are_averaged(others, tmp_path):
    """DDP takes the mean of the two gradients, so each is twice its share: 2/(3 + others) of its rows' sum."""
    policy, reference = tiny_lm(seed=1, **MODELS), tiny_lm(seed=2, **MODELS)
    config = DPOConfig(beta=0.5).resolved()
    (alone, slopes), _ = our_dpo(tmp_path, config, copy.deepcopy(policy), reference)
    _, trainer = our_dpo(tmp_path, config, policy, reference)
    rows = [{**pair, "row": i} for i, pair in enumerate(PAIRS)]
    loss, found = gradients_as_one_of_two(trainer, {"examples": rows}, others)
    times = 2 * 3 / (3 + others)
    assert loss == pytest.approx(times * alone, rel=1e-5)
    torch.testing.assert_close(found, [times * slope for slope in slopes], atol=1e-6, rtol=1e-4)


def test_ktos_reference_point_is_over_the_answers_of_all_processes(tmp_path):
    policy, reference = tiny_lm(seed=5, **MODELS), tiny_lm(seed=1, **MODELS)
    trainer = our_kto(tmp_path, policy, reference, len(ANSWERS))
    alone = float(trainer._point({"ratio": (torch.tensor(3.0), 6)}))
    trainer.accelerator = OneOfTwo(trainer.accelerator, others=[9.0, 2.0])
    assert alone == 0.5 and float(trainer._point({"ratio": (torch.tensor(3.0), 6)})) == pytest.approx(12 / 8)


@pytest.mark.parametrize(
    ("rank", "remainder", "end", "kept"),
    [(0, 5, True, 4), (1, 5, True, 1), (0, 3, True, 3), (1, 3, True, 0), (1, 0, True, 4), (1, 5, False, 4)],
)
def test_held_out_rows_that_fill_up_the_last_batch_are_left_out(rank, remainder, end, kept):
    """Five rows in batches of four in each of two processes: the second has one of its own."""
    state = SimpleNamespace(end_of_dataloader=end, remainder=remainder)
    stub = SimpleNamespace(
        accelerator=SimpleNamespace(gradient_state=state, process_index=rank),
        args=SimpleNamespace(per_device_eval_batch_size=4),
    )
    assert Steps.own_rows(stub, [{"n": n} for n in range(4)]) == [{"n": n} for n in range(kept)]


def test_each_process_draws_and_shuffles_its_own_out_of_what_one_would():
    whole = make()
    everyone, order = whole._draws(24), whole._minibatches(12)[0].tolist()
    parts, orders = [], []
    for rank in (0, 1):
        ppo = make()
        ppo.accelerator = OneOfTwo(ppo.accelerator, rank)
        parts.append(ppo._draws(12))
        orders.append(ppo._minibatches(6)[0].tolist())
    assert torch.equal(torch.cat(parts), everyone) and not torch.equal(*parts)
    assert orders == [[i - 6 * rank for i in order if i // 6 == rank] for rank in (0, 1)]


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_answers_its_own_share_of_a_rollouts_prompts(rank, chain, prefcli, monkeypatch):
    """Through `ppo`: the prompts of the first rollout, told to be one of two processes."""
    from accelerate import Accelerator

    from prefcli.rl.ppo import PPO

    seen = []

    class Stop(Exception):
        pass

    def step(self, prompts, progress=None):
        seen.extend(prompt.row.prompt_text for prompt in prompts)
        raise Stop

    monkeypatch.setattr(PPO, "step", step)
    prefcli(*chain.args("ppo"), "--force", "--name", "one")
    whole = list(seen)
    seen.clear()
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    monkeypatch.setattr(Accelerator, "process_index", property(lambda _: rank))
    prefcli(*chain.args("ppo"), "--force", "--name", "two")
    assert len(whole) == 8 and seen == whole[4 * rank : 4 * rank + 4]


def test_prompts_that_cannot_be_shared_out_are_refused():
    assert _share(8, 2) == 4
    with pytest.raises(UsageError, match="divided over 3 processes"):
        _share(8, 3)


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo"])
def test_a_batch_that_cannot_be_shared_out_is_refused_before_anything_is_loaded(chain, prefcli, stage):
    several = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    result = prefcli(*chain.args(stage), "--batch-size", "9", "--dry-run", env=several)
    assert result.exit_code == 2 and "multiple of 2" in result.stderr
    assert "--batch-size 9 cannot be split" in result.stderr


def test_tied_weights_that_were_gathered_are_saved_once(tmp_path):
    """DeepSpeed gathers each name by itself: no two share memory then."""
    model = AutoModelForCausalLM.from_pretrained(TINY)
    gathered = {name: weight.clone() for name, weight in model.state_dict().items()}
    accelerator = SimpleNamespace(get_state_dict=lambda _: dict(gathered))
    trainer = SimpleNamespace(accelerator=accelerator, model=model, deepspeed=model)
    save_model(model, tmp_path / "one")
    save_model(model, tmp_path / "all", whole_weights(trainer))
    one, found = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "all"))
    assert "lm_head.weight" in gathered and "lm_head.weight" not in one and found.keys() == one.keys()
    accelerator.get_state_dict = lambda _: None  # in the other processes
    assert whole_weights(trainer) == {}


def test_a_head_that_was_parted_from_the_embeddings_is_among_the_weights_that_were_gathered():
    model = AutoModelForCausalLM.from_pretrained(TINY)
    plain = merged(get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")))
    accelerator = SimpleNamespace(get_state_dict=lambda _: plain.state_dict())
    trainer = SimpleNamespace(accelerator=accelerator, model=plain, deepspeed=plain)
    assert whole_weights(trainer).keys() == plain.state_dict().keys()


@pytest.mark.parametrize(("version", "said"), [(3, "v3.partial"), (0, "the unfinished version")])
def test_no_process_names_its_temporary_folder(tmp_path, version, said):
    draft = Draft(tmp_path / "v3.partial", version, None)
    with pytest.raises(ArtifactError) as caught:
        refuse_elsewhere(draft, {"threads": 1})
    assert f"{said} was started under threads None, now 1" in caught.value.message and ("v3" in said) == (
        str(tmp_path) in caught.value.message
    )


def test_the_watchers_of_each_process_see_the_answers_of_all(monkeypatch):
    ppo = make()
    ppo.step(PROMPTS)
    mine = answers_of(ppo, {"judge": [1.0] * 12})
    ppo.accelerator = OneOfTwo(ppo.accelerator)
    monkeypatch.setattr("prefcli.stages.ppo.gather_object", lambda found: [*found, *found])
    both = answers_of(ppo, {"judge": [1.0] * 12})
    for name in ("prompts", "completions", "totals", "lengths", "ended"):
        assert getattr(both, name) == getattr(mine, name) * 2, name
    assert both.judges == {"judge": [1.0] * 24} and len(both.scores["c"]) == 24


@pytest.mark.parametrize("due", [True, False])
def test_whether_a_checkpoint_is_due_is_by_the_first_processs_clock(monkeypatch, due):
    """Where weights are split all processes gather for one, so all must."""
    ppo = make()
    ppo.accelerator = OneOfTwo(ppo.accelerator, rank=1)
    first = [(due, None, {"torch": "of the first"})]
    monkeypatch.setattr("prefcli.stages.ppo.gather_object", lambda mine: first + mine)
    states, written = states_of(ppo)
    states.end(Position(step=3), not due)
    assert written == [True] * due and states._run.ended == 3
    assert states._last["random"][0] == {"torch": "of the first"} and len(states._last["random"]) == 2


def states_of(ppo):
    """And what they would have written."""
    states = States(SimpleNamespace(mesh=object(), ended=0, enter=lambda phase: None), ppo, None, None, None)
    written = []
    states._write = written.append
    return states, written


@pytest.mark.parametrize("stage", ["ppo", "trl"])
def test_a_signal_that_comes_while_processes_agree_is_for_the_next_step(monkeypatch, stage):
    """None of the others has heard of it, so that none may leave; and it must not be forgotten."""
    ppo = make()
    ppo.accelerator = OneOfTwo(ppo.accelerator)
    states, written = states_of(ppo)
    run = SimpleNamespace(save_is_due=lambda step: False, inputs=SimpleNamespace(config=None))
    trainer = SimpleNamespace(run=run, state=SimpleNamespace(global_step=1), alone=False)
    monkeypatch.setattr(stopping, "asked", None)

    def step():
        if stage == "ppo":
            states.end(Position(step=1), due=False)
        elif Resuming.decide(trainer, last=False):
            raise stopping.leave()

    def gather_object(mine):
        if not came:
            came.append(stopping.heard(signal.SIGINT))
        return mine * 2

    came = []
    monkeypatch.setattr(stopping, "phase", Phase.BUSY)
    monkeypatch.setattr(stopping, "left", None)
    for module in ("ppo", "resuming"):
        monkeypatch.setattr(f"prefcli.stages.{module}.gather_object", gather_object)
    step()
    assert not written and stopping.asked == signal.SIGINT
    with pytest.raises(KeyboardInterrupt):
        step()
