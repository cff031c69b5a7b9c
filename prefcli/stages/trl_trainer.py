"""Shared by the stages on TRL's trainers: arguments from our options, the progress callback, reading results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from prefcli.config.dpo import DPOConfig
from prefcli.config.preference import PreferenceConfig
from prefcli.config.training import DataConfig, not_split
from prefcli.data.lengths import length_bias
from prefcli.data.rows import Encode, Example, Examples, Rows
from prefcli.errors import AlarmError, UsageError
from prefcli.models import bitsandbytes, sharding
from prefcli.models.shared import SharedRole
from prefcli.progress import under_deepspeed
from prefcli.stages.inputs import Inputs, nothing_left, refuse_nothing_left
from prefcli.stages.long_rows import refuse_long_rows
from prefcli.stages.policy import Opened
from prefcli.stages.resuming import position, whole_weights
from prefcli.stages.session import Session
from prefcli.statistics.intervals import wilson_interval
from prefcli.stopping import Phase
from prefcli.watch.pairs import longer_chosen
from prefcli.watch.watchers import Watchers, act, logged, of_training

ACCURACY = "eval_rewards/accuracies"
SCHEDULERS = {"constant": "constant_with_warmup"}  # transformers' "constant" would leave --warmup out
OPTIMIZERS = {"adamw": "adamw_torch", "adamw-8bit": "adamw_bnb_8bit", "adafactor": "adafactor", "sgd": "sgd"}


def arguments(session: Session, held_out: bool = False, **more: Any) -> dict[str, Any]:
    """Keyword arguments of a TRL config, from the options that all stages share.

    `held_out`: whether rows are without --eval-data too.
    """
    config = session.inputs.config
    assert isinstance(config, DataConfig)
    if under_deepspeed():
        _refuse_what_is_not_split(session)
    parts = config.micro_batches()
    if config.optim == "adamw-8bit":
        bitsandbytes.show()
    eval_every = config.eval_every if session.inputs.eval_data or held_out else None
    return {
        "output_dir": str(session.draft.path / "state"),
        "per_device_train_batch_size": config.batch_size // parts,
        "per_device_eval_batch_size": config.batch_size // parts,
        "gradient_accumulation_steps": config.grad_accum,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "learning_rate": config.lr,
        # Fused where there is a kernel: PyTorch's default on a GPU makes a copy of all second moments at each step.
        "optim": OPTIMIZERS[config.optim] + ("_fused" if _fuses(session) else ""),
        "lr_scheduler_type": SCHEDULERS.get(config.lr_scheduler, config.lr_scheduler),
        "warmup_steps": min(config.warmup, math.nextafter(1, 0)),  # a fraction; from 1 on it would be a number of steps
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "data_seed": config.seed,
        "max_length": None,  # cut already, by data/tokenising.py
        "remove_unused_columns": False,  # there is none but the rows' numbers
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": session.dtype == torch.bfloat16,
        "fp16": session.dtype == torch.float16,
        "use_cpu": session.device.type == "cpu",
        "report_to": "none",  # MetricsLog sends what it writes (stages/trackers.py)
        "run_name": f"{session.inputs.name}@v{session.draft.version}",
        "eval_strategy": "steps" if eval_every else "no",
        "eval_steps": eval_every,
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log 0 for a loss that is not a number
        "disable_tqdm": True,
        "dataloader_pin_memory": session.device.type == "cuda",
        **more,
    }


def _refuse_what_is_not_split(session: Session) -> None:
    """Of a state that could not be saved under DeepSpeed."""
    if refused := not_split(session.inputs.config.optim, str(session.dtype).removeprefix("torch.")):
        raise UsageError(f"{refused[0]} does not run under DeepSpeed", refused[1])


def _fuses(session: Session) -> bool:
    return session.inputs.config.optim == "adamw" and session.device.type == "cuda"


def dataset(rows: Sequence[Example], change: Callable[[Example], Example] | None = None) -> Dataset:
    """The numbers of examples, which become the examples, each changed, when a trainer asks for them."""
    return Dataset.from_dict({"row": np.arange(len(rows))}).with_transform(_Made(rows, change))


class _Made:
    """From the numbers of examples to the examples, as columns."""

    def __init__(self, examples: Sequence[Example], change: Callable[[Example], Example] | None) -> None:
        self._examples, self._change = examples, change

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        made = [self._examples[int(number)] for number in batch["row"]]
        if self._change:
            made = list(map(self._change, made))
        return {name: [example[name] for example in made] for name in made[0]}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # `datasets` hashes what it is given, and a million offsets need not be


def build(
    kind: Callable[..., Any],
    model: Any,
    tokenizer: Any,
    args: Any,
    rows: Sequence[Example],
    held_out: Sequence[Example],
    change: Callable[[Example], Example] | None = None,
    **more: Any,
) -> Any:
    """A trainer of this kind, TRL's or ours, on these examples, each changed.

    The model is ready to be trained before (`Session.packs`): what is done to it here is undone.
    """
    if more.get("ref_model", model) is None and isinstance(model, PeftModel) and not under_deepspeed():
        more["ref_model"] = SharedRole(model, None)  # TRL would make a copy of the adapter
    if args.n_gpu > 1:  # all that are seen, which transformers would have one process run, and TRL refuses
        args._n_gpu = 1
    with _unchanged(model):
        return kind(
            model=model,
            args=args,
            train_dataset=dataset(rows, change),
            eval_dataset=dataset(held_out, change) if held_out else None,
            processing_class=tokenizer,
            **more,
        )


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """While a trainer is made: what TRL changes in the model is undone, but for the padding token's id.

    It has mixtures of experts return their routers' values, which would be saved with the model; rounds an adapter on
    a base of 4 bits to bfloat16, the parent's too; and turns the adapter's dropout off with the model's. It is shown no
    weights to hash, which it does where it is to load no reference: they may be split, and are many.
    """
    config = model.config.get_text_config()
    before = dict(vars(config))
    dropouts = {m: m.p for name, m in model.named_modules() if ".lora_dropout." in name and hasattr(m, "p")}
    weights = {}
    if getattr(model, "is_loaded_in_4bit", False):
        weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.state_dict = dict
    yield
    del model.state_dict
    vars(config).update({name: value for name, value in before.items() if name != "pad_token_id"})
    for dropout, p in dropouts.items():
        dropout.p = p
    for name, parameter in model.named_parameters():
        if name in weights:
            parameter.data = weights[name]


def run(session: Session, trainer: Any, what: str, saves_merged: bool) -> tuple[int, int]:
    """Train to the end, or to an alarm that stops it (`session.alarm`); returns (optimizer steps, tokens seen).

    It continues from the session's saved state where there is one. The held-out rows are measured at the end.
    """
    for foreign in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(foreign)
    trainer.run, trainer.watchers, trainer.saves_merged = session, watchers_of(session.inputs), saves_merged
    zero = trainer.accelerator.state.deepspeed_plugin
    if zero is not None and zero.zero_stage != 3:
        raise UsageError(f"ZeRO stage {zero.zero_stage} does not run", "use zero_stage: 3, or docs/accelerate/ddp.yaml")
    trainer.add_callback(_Progress(session, what, trainer))
    try:
        _to_the_end(session, trainer)
    except KeyboardInterrupt:
        trainer.keep_ended()
        raise
    return int(trainer.state.global_step), int(session.log.last.get("num_tokens", 0))


def _to_the_end(session: Session, trainer: Any) -> None:
    before = session.resumed
    if before is not None and (at := position(before)).global_step == at.max_steps:  # stopped after its last step
        trainer._load_from_checkpoint(str(before))
        trainer.accelerator.wait_for_everyone()  # the first one may end at once, and the checkpoint with it
        trainer.state = at
    else:
        with session.training():
            trainer.train(resume_from_checkpoint=str(before) if before else None)
    if trainer.eval_dataset is not None and not _measured(session, trainer.state.global_step):
        session.enter(Phase.WHOLE if trainer.alone else Phase.HALF)
        trainer.evaluate()
        session.enter(Phase.BUSY)


def _measured(session: Session, step: int) -> bool:
    """Whether the held-out rows were measured at the last step, in passing or before a stop."""
    last = session.log.rows[-1] if session.log.rows else {}
    return last.get("step") == step and "eval_loss" in last


def watchers_of(inputs: Inputs) -> Watchers:
    config = inputs.config
    beta = config.beta if isinstance(config, PreferenceConfig) and "reference" in inputs.references else None
    if isinstance(config, DPOConfig) and config.length_normalise:
        beta = None  # rewards are means over tokens, and what the watchers know is of whole answers
    from_reference = inputs.references.get("reference") == inputs.model
    return Watchers(of_training(config.batch_size, beta, from_reference=from_reference), unit="step")


class _Progress(TrainerCallback):
    """TRL's events to the metrics log, the watchers and the reporter."""

    def __init__(self, session: Session, what: str, trainer: Any) -> None:
        self._session, self._what, self._trainer = session, what, trainer
        self._began = self._gathered = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds, gathering = self._trainer.prepared
        self._began, self._gathered = time.perf_counter() - seconds, sharding.spent["gathering"] - gathering

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for a state, which is saved once the step is logged and its held-out rows are measured."""
        control.should_save = self._trainer.decide(last=state.global_step >= state.max_steps)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.enter(Phase.BUSY)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.eval_steps = args.eval_steps or state.eval_steps  # a resumed run's is as --eval-every was when it began
        self._session.reporter.begin(self._what, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "train_runtime" in logs:
            return
        step, session = state.global_step, self._session
        logs = {name: value for name, value in logs.items() if not name.endswith(("_per_second", "_preparation_time"))}
        if "eval_runtime" in logs:
            logs["time/eval"] = logs.pop("eval_runtime")
        # A gradient norm may be infinite and mean nothing: float16's loss scale is found so.
        finite = {n: float(v) for n, v in logs.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        alarms = self._trainer.watchers.observe(step, finite)
        if "loss" in logs:  # else it is of the held-out rows
            logs = logs | {"time/step": time.perf_counter() - self._began}
            if sharding.is_sharded(self._trainer.model):
                logs["time/gather"] = sharding.spent["gathering"] - self._gathered
        session.log.write(step, logs | logged(alarms))
        loss = logs.get("loss")
        if isinstance(loss, float) and loss != loss:
            lost = "use a lower --lr" if step > 1 else "its weights are damaged, or its --dtype is too narrow"
            raise AlarmError(f"the loss is not a number at step {step}", lost)
        session.reporter.advance(step, logs)
        try:
            act(alarms, session.inputs.config.on_alarm, session.reporter)
        except AlarmError as error:
            session.alarm = session.alarm or error
            control.should_training_stop = True


def encoded(session: Session, encode: Encode, rows: Rows, held_out: Rows) -> tuple[Examples, Examples]:
    """(training, held out) rows as token ids; what was cut or left out is noticed. Raises DataError: no row is left,
    or one is longer than the model's positions."""
    examples = Examples(rows, encode)
    refuse_nothing_left(len(examples.first), examples.dropped, _longest(session))
    say_cut(session, examples)
    measured = Examples(held_out, encode)
    refuse_long_rows(session.inputs, examples, measured)
    return examples, measured


def finish(session: Session, trainer: Any, opened: Opened, wanted: Sequence[str], done: tuple[int, int]) -> Any:
    """The artifact of a trained policy, with the last of the `wanted` metrics and of their held-out ones.

    `done`: what `run` returned.
    """
    last = session.log.last
    names = (*wanted, *(f"eval_{name}" for name in wanted))
    metrics: dict[str, Any] = {name: last[name] for name in names if name in last}
    if (share := metrics.get(ACCURACY)) is not None:
        pairs = len(trainer.eval_dataset)
        metrics[f"{ACCURACY}_ci95"] = list(wilson_interval(share * pairs, pairs))
    return session.finish(
        trainer.model,
        opened.tokenizer,
        metrics=metrics,
        steps=done[0],
        tokens=done[1],
        about=opened.about,
        weights=whole_weights(trainer),
        saves_merged=opened.saves_merged,
    )


def _longest(session: Session) -> int:
    assert isinstance(session.inputs.config, DataConfig)
    return session.inputs.config.max_length


def say_cut(session: Session, rows: Examples) -> None:
    limit = _longest(session)
    of = f"of {'' if rows.whole else 'the first '}{len(rows.first) + rows.dropped} rows"
    if rows.cut:
        session.reporter.notice(f"{rows.cut} {of} were longer than --max-length {limit}: answers cut")
    if rows.dropped:
        session.reporter.notice(f"{rows.dropped} {of} left out: {nothing_left(limit)}")


def say_longer(session: Session, rows: Examples) -> None:
    """Notice where the length of chosen answers alone tells them from rejected ones."""
    found = length_bias((len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows.first)
    if found is not None and found.large:
        session.reporter.notice(longer_chosen(found.text).message)
