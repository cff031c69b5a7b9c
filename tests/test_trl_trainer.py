"""What TRL's trainers are given by the stages, without any training."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import tiny_lm, tiny_scorer
from transformers import TrainerState, get_scheduler
from trl import RewardConfig as TRLConfig

from prefcli.config.dpo import DPOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.errors import DataError, UsageError
from prefcli.models.devices import training_device
from prefcli.rl.optimizer import make_scheduler
from prefcli.stages import reward, trl_trainer
from prefcli.stages.inputs import refuse_nothing_left
from prefcli.stages.resuming import Resuming
from prefcli.stages.steps import Steps


def test_one_process_trains_on_one_gpu_however_many_it_sees(tmp_path):
    """transformers would copy the model to all of them in each step, and TRL refuses that."""
    arguments = TRLConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert arguments.n_gpu == 0
    arguments._n_gpu = 2  # as where it sees two
    made = trl_trainer.build(lambda **given: given["args"], tiny_lm(), None, arguments, [{"a": 1}], [])
    assert made.n_gpu == 1 and made.train_batch_size == made.per_device_train_batch_size


def test_a_training_refuses_a_gpu_that_is_not_the_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [training_device(name).index for name in ("cuda", "cuda:0")] == [None, 0]
    with pytest.raises(UsageError) as error:
        training_device("cuda:1")
    assert "CUDA_VISIBLE_DEVICES=1" in error.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert training_device("auto") == torch.device("cuda:1")  # of two processes the second one's


def arguments_of(tmp_path, **options) -> dict[str, Any]:
    inputs = SimpleNamespace(config=DPOConfig(**options), eval_data=None, name="dpo")
    draft = SimpleNamespace(path=tmp_path, version=1)
    run: Any = SimpleNamespace(inputs=inputs, draft=draft, dtype=torch.float32, device=torch.device("cpu"))
    return trl_trainer.arguments(run)


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
def test_the_rate_rises_over_the_same_fraction_of_the_steps_as_in_ppo(tmp_path, name):
    for warmup, rising in ((0.0, 0), (0.05, 1), (0.4, 4), (1.0, 10)):
        theirs = TRLConfig(**arguments_of(tmp_path, lr=1.0, lr_scheduler=name, warmup=warmup))
        found = []
        for of_ppo in (False, True):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            config = PPOConfig(lr_scheduler=name, warmup=warmup)
            schedule = (
                make_scheduler(optimizer, 10, config)
                if of_ppo
                else get_scheduler(theirs.lr_scheduler_type, optimizer, theirs.get_warmup_steps(10), 10)
            )
            rates = []
            for _ in range(10):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
            found.append(rates)
        assert found[0] == found[1] and found[0][:rising] == pytest.approx([i / rising for i in range(rising)])
        assert name != "constant" or found[0][rising:] == [1.0] * (10 - rising)


def test_a_resumed_run_measures_as_often_as_it_is_told_now():
    session: Any = SimpleNamespace(reporter=SimpleNamespace(begin=lambda *_: None))
    for told, expected in ((3, 3), (None, 7)):
        state = TrainerState(eval_steps=7, max_steps=9)
        trl_trainer._Progress(session, "sft", None).on_train_begin(SimpleNamespace(eval_steps=told), state, None)
        assert state.eval_steps == expected


class Slow(Steps):
    def __init__(self) -> None:
        self.model, self.watchers = None, SimpleNamespace(observe=lambda *_: [])
        self.accelerator = SimpleNamespace(reduce=lambda units, reduction: units)

    def begin(self, model, parts):
        time.sleep(0.05)


def test_a_steps_time_has_what_it_is_prepared_with():
    """As kto's z₀; what a resumed run measures between the two is not of the step."""
    trainer, written = Slow(), []
    session: Any = SimpleNamespace(
        inputs=SimpleNamespace(config=DPOConfig()),
        log=SimpleNamespace(write=lambda step, row: written.append(row)),
        reporter=SimpleNamespace(advance=lambda *_: None),
    )
    progress = trl_trainer._Progress(session, "kto", trainer)
    trainer.get_batch_samples(iter([{"examples": [{}]}]), 1, torch.device("cpu"))
    time.sleep(0.2)
    progress.on_step_begin(None, None, None)
    progress.on_log(None, TrainerState(global_step=1), None, {"loss": 0.5})
    assert 0.05 <= written[0]["time/step"] < 0.2


class Draws:
    def _evaluate(self):
        return torch.rand(())  # as a DataLoader does for its workers' seed


class Measures(Resuming, Draws):
    def __init__(self) -> None:
        self.run: Any = SimpleNamespace(enter=lambda phase: None)
        self.accelerator, self.state, self._total_train_tokens = SimpleNamespace(num_processes=1), TrainerState(), 0


def test_measuring_held_out_rows_changes_no_draw_of_a_later_step():
    torch.manual_seed(0)
    first, then = torch.rand(2)
    torch.manual_seed(0)
    assert (torch.rand(()), Measures()._evaluate(), torch.rand(())) == (first, then, then)


def pair(*lengths: int) -> dict[str, Any]:
    return {
        name: [2 + i % 9 for i in range(n)] for name, n in zip(("prompt_ids", "chosen_ids", "rejected_ids"), lengths)
    }


def test_held_out_pairs_are_measured_in_parts_as_small_as_those_of_training(monkeypatch):
    model, seen = tiny_scorer(), []
    rows = [pair(3, 1 + i % 5, 2 + i % 3) for i in range(11)]
    whole = reward.held_out_metrics(model, rows, 11, 10**6)
    scores = reward.sequence_scores
    monkeypatch.setattr(reward, "sequence_scores", lambda model, rows: seen.append(rows) or scores(model, rows))
    found = reward.held_out_metrics(model, rows, 4, 20)
    assert found.pop("accuracy_ci95") == whole.pop("accuracy_ci95") and found == pytest.approx(whole, abs=1e-6)
    assert max(len(part.lengths) for part in seen) <= 2 * 4 and sum(len(part.lengths) for part in seen) == 22
    assert max(int(part.lengths.sum() - part.prompt_lengths[::2].sum()) for part in seen) <= 20


@pytest.mark.parametrize("length_normalise", [False, True])
def test_a_margin_a_token_is_not_taken_for_one_of_whole_answers(length_normalise):
    config = DPOConfig(length_normalise=length_normalise, beta=0.1, batch_size=8)
    inputs: Any = SimpleNamespace(config=config, references={"reference": "m"}, model="m")
    watchers, signals = trl_trainer.watchers_of(inputs), set()
    for step in range(1, 30):  # 0.05 nats a token apart
        found = {"rewards/margins": 0.05 * 0.1, "rewards/accuracies": 0.8, "learning_rate": 1e-6}
        signals |= {alarm.signal for alarm in watchers.observe(step, found)}
    assert ("too slow" in signals) == (not length_normalise)


def test_rows_that_the_cut_leaves_nothing_of_are_told_from_no_room_alone():
    with pytest.raises(DataError, match="or what tells a pair's answers apart lies beyond it"):
        refuse_nothing_left(0, 3, 16)
