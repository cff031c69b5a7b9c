"""RLHF, stage 3: PPO against a reward. Opens the four roles, runs the loop of prefcli/rl, saves."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from prefcli import stopping
from prefcli.artifacts.references import Reference, kept_steps
from prefcli.artifacts.store import Artifact
from prefcli.artifacts.unfinished import saved_steps
from prefcli.config.ppo import PPOConfig
from prefcli.data.encoder import Encoder
from prefcli.data.rows import Example, Examples
from prefcli.data.tokenising import encode_prompt
from prefcli.errors import AlarmError, ArtifactError, SurroundingsError, UsageError
from prefcli.evaluation.prompts import say_kept
from prefcli.models.sharding import at_rest, put, whole_weights
from prefcli.models.tokenizers import end_ids
from prefcli.progress import Reporter, under_deepspeed
from prefcli.rewards.grammar import Scale, reward_scales
from prefcli.rewards.preflight import preflight
from prefcli.rewards.sources import Answer, RewardSource
from prefcli.rl.ppo import PPO
from prefcli.rl.roles import Prompt, Roles
from prefcli.stages.inputs import Inputs
from prefcli.stages.long_rows import refuse_long_answers
from prefcli.stages.plan import rollouts
from prefcli.stages.policy import Opened, open_policy, open_servers, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.roles import OpenedRoles, open_roles
from prefcli.stages.saving import save_step
from prefcli.stages.session import Session, session
from prefcli.stages.state import VALUES, random_state, read_state, set_random_state, write_state
from prefcli.stopping import Phase
from prefcli.watch.records import Answers
from prefcli.watch.watchers import Watchers, act, logged, of_ppo

FINAL = (
    "objective/scores",
    "objective/kl",
    "objective/kl_k3",
    "objective/rlhf_reward",
    "objective/entropy",
    "completions/mean_length",
    "loss/policy_avg",
    "loss/value_avg",
    "policy/clipfrac_avg",
    "val/ratio",
)
ROLLBACK_EVERY = 5  # rollouts between two states to go back to
MOST_ROLLBACKS = 3
SHOWN = 6  # of a rollout's answers, to whoever watches
TAIL = 5  # the manifest's final metrics are means over so many last rollouts: one alone is noisy


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train against the reward and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    assert isinstance(config, PPOConfig) and config.num_generations and config.lr is not None
    if under_deepspeed():
        raise UsageError(
            "ppo does not run under DeepSpeed, which trains one model, and ppo trains two",
            "split them with --shard: torchrun --nproc-per-node N -m prefcli ppo --shard … (docs/scaling.md)",
        )
    carried = kept_state(inputs.model) if config.carry_optimizer else None
    with session(inputs, reporter) as run:
        accelerator = Accelerator(
            cpu=run.device.type == "cpu",
            mixed_precision={torch.bfloat16: "bf16", torch.float16: "fp16"}.get(run.dtype, "no"),
        )
        share = _share(config.batch_size // config.num_generations, accelerator.num_processes)
        if config.on_alarm == "rollback" and accelerator.num_processes > 1:
            raise UsageError("--on-alarm rollback works in a single process", "use --on-alarm stop")
        scales = reward_scales(inputs.rewards, config.reward_weight, config.standardise_rewards)
        tokenizer = open_tokenizer(run)
        encoder, longest = Encoder(tokenizer), config.max_prompt_length
        say_rendered(inputs, encoder, reporter)
        prompts = Examples(inputs.data.rows, partial(encode_prompt, encoder=encoder, max_length=longest))
        say_kept(len(prompts.first), len(prompts.first) + prompts.dropped, longest, reporter)
        refuse_long_answers(inputs, max(len(p["prompt_ids"]) for p in prompts.first) if prompts.whole else longest)
        opened = open_policy(run, tokenizer)
        models = open_roles(run, opened)
        packed = models.prepare(run)
        with run.as_gathered():
            preflight(models.rewards, inputs.data.rows, reporter)
        total = rollouts(config, len(prompts))
        ends = end_ids(opened.tokenizer, opened.model.generation_config)
        score = Scorer(models.rewards, scales, ends)
        roles = Roles(models.policy, models.value, models.reference, score)
        ppo = PPO(
            roles,
            config,
            tokenizer=opened.tokenizer,
            accelerator=accelerator,
            total_rollouts=total,
            lr=config.lr,
            eos_ids=ends,
            tokens_per_row=run.tokens_per_row if packed else None,
            sampler=open_servers(run, opened),
        )
        watchers = Watchers(of_ppo(config))
        position = Position()
        if run.resumed is not None:
            position = restore(run.resumed, ppo, watchers)
            accelerator.wait_for_everyone()  # where nothing is left to do, the first one takes the state away at once
            run.train_seconds = position.train_seconds
        elif carried is not None:
            carry_optimizer(carried, ppo)
        order = passes(prompts, config.batch_size // config.num_generations, config.seed, position.step)
        states = States(run, ppo, watchers, opened, models)
        ppo.before_update = partial(run.enter, Phase.HALF)
        reporter.begin("ppo", total)
        try:
            with run.training():
                while position.step < total:
                    step = position.step + 1
                    try:
                        metrics = ppo.step(next(order)[accelerator.process_index * share :][:share])
                        run.enter(Phase.BUSY)
                        answers = answers_of(ppo, score.judged)
                        metrics |= {f"judge/{name}": mean(scores) for name, scores in answers.judges.items()}
                        alarms = watchers.observe(step, watched(metrics, accelerator.scaler), answers)
                        run.log.write(step, metrics | logged(alarms))
                        run.log.show(step, answers.first(SHOWN))
                        position.step = step
                        position.tokens += metrics["completions/mean_length"] * config.batch_size
                        serious = bool(act(alarms, config.on_alarm, reporter))
                    except AlarmError as error:
                        if config.on_alarm != "rollback":
                            raise
                        reporter.notice(error.message)
                        serious = True
                    if serious and config.on_alarm == "rollback":
                        run.enter(Phase.BUSY)
                        position = go_back(run, ppo, watchers, position)
                        order = passes(prompts, config.batch_size // config.num_generations, config.seed, position.step)
                        states.ended(position)
                        continue
                    reporter.advance(step, metrics)
                    due = save_is_due(run, step) if step < total else config.keep_state
                    states.end(position, due)
        except (KeyboardInterrupt, SurroundingsError):  # Ctrl-C; a service or a server that does not answer
            states.keep()
            raise
        except AlarmError as error:
            if position.step == 0:
                raise
            run.alarm = error
        finally:
            ppo.sampler.close()
        return run.finish(
            opened.model,
            opened.tokenizer,
            metrics=final(run.log.rows[-TAIL:]),
            steps=position.step,
            tokens=int(position.tokens),
            about=opened.about | {"value_from": models.value_from},
            saves_merged=opened.saves_merged,
            weights=whole_weights(opened.model),
            value=models.value,
            value_weights=None if models.value is None else whole_weights(models.value),
            value_saves_merged=models.value_saves_merged,
        )


def watched(metrics: dict[str, float], scaler: Any) -> dict[str, float]:
    """What the watchers see. With a loss `scaler` (float16) an infinite gradient norm means nothing: such an update is
    left out and the scale halved, until it fits. At a scale of 1 or less the scale is not the cause."""
    if scaler is None or scaler.get_scale() <= 1:
        return metrics
    return {n: value for n, value in metrics.items() if math.isfinite(value) or not n.startswith("grad_norm")}


def final(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The means of the manifest's metrics, each over the rollouts that have it: in --value-warmup the policy's lack."""
    there = {name: [row[name] for row in rows if name in row] for name in FINAL}
    return {name: sum(values) / len(values) for name, values in there.items() if values}


@dataclass
class Position:
    """The position of a run."""

    step: int = 0
    tokens: float = 0.0
    train_seconds: float = 0.0
    rollbacks: int = 0


class States:
    """The states of a run: when a rollout has ended, or, where the next one is dropped, of the last that did."""

    def __init__(self, run: Session, ppo: PPO, watchers: Watchers, opened: Opened, models: OpenedRoles) -> None:
        self._run, self._ppo, self._watchers, self._opened, self._models = run, ppo, watchers, opened, models
        self._last: dict[str, Any] | None = None  # what a rollout changes before its first update, as it was
        self._position, self._due = Position(), False
        # Where weights are split no process can write a state that the others are not at.
        self._meanwhile = Phase.WHOLE if run.mesh is None else Phase.HALF

    def end(self, position: Position, due: bool) -> None:
        """A rollout has ended. Raises KeyboardInterrupt, with its state written, where a signal was waiting for it."""
        said = gather_object([(due, stopping.asked, random_state())])
        due = said[0][0]  # the first one's clock counts
        asked = next((signal for _, signal, _ in said if signal is not None), None)  # to one process is to all
        stopping.asked = stopping.asked or asked  # one that came since then is for the next rollout
        self._mark(position, [random for *_, random in said], due=False)
        if due or asked is not None:
            self._write(due)
        self._run.enter(self._meanwhile)
        if asked is not None or (stopping.asked is not None and self._ppo.accelerator.num_processes == 1):
            raise stopping.leave()

    def ended(self, position: Position) -> None:
        """The run has gone back to a state, which it may have to go back to again."""
        self._mark(position, gather_object([random_state()]), due=True)
        self._run.enter(self._meanwhile)

    def keep(self) -> None:
        """After a signal: write the state of the last rollout that ended, where that is not done and can be."""
        if self._last is not None and stopping.phase is Phase.WHOLE:
            with stopping.busy():
                self._write(self._due)

    def _mark(self, position: Position, random: list[Any], due: bool) -> None:
        ppo = self._ppo
        self._position, self._run.ended, self._due = replace(position), position.step, due
        self._last = {
            "random": random,
            "ppo": {"generator": ppo.generator.get_state(), "rollouts": ppo.rollouts, "episodes": ppo.episodes},
        }

    def _write(self, due: bool) -> None:
        """All processes gather; the first one writes."""
        last, self._last = self._last, None  # it need not be written twice
        if last is None:
            return
        run, opened, config = self._run, self._opened, self._run.inputs.config
        policy, value = self._ppo.roles.policy, self._ppo.roles.value
        keeps = config.keep_state and due
        weights = [whole_weights(model) if keeps and model is not None else None for model in (policy, value)]
        self._position.train_seconds = run.seconds
        if not self._ppo.accelerator.is_main_process:
            if run.mesh is not None:
                save(None, self._ppo, self._watchers, self._position, last)
            return
        with run.saving(self._position.step, due=due, keep=not due and config.on_alarm == "rollback") as folder:
            save(folder, self._ppo, self._watchers, self._position, last)
            if keeps:
                save_step(policy, folder / "model", opened.saves_merged, opened.tokenizer, weights[0])
                if value is not None:
                    merges = opened.saves_merged or self._models.value_saves_merged
                    save_step(value, folder / "value", merges, weights=weights[1])


def save_is_due(run: Session, step: int) -> bool:
    """As --save-every says; without it every few rollouts where one may have to go back."""
    if run.inputs.config.on_alarm == "rollback" and run.inputs.config.save_every is None:
        return step % ROLLBACK_EVERY == 0
    return run.save_is_due(step)


def go_back(run: Session, ppo: PPO, watchers: Watchers, position: Position) -> Position:
    """The last saved state, softened once more than the last time.

    Raises AlarmError where there is none, or after the third time.
    """
    there = [step for step in run.draft.steps if not run.draft.for_a_stop(step)]
    if not there or position.rollbacks == MOST_ROLLBACKS:
        why = f"it is the alarm after {MOST_ROLLBACKS} rollbacks" if there else "no state was saved yet"
        raise AlarmError(f"cannot go back: {why}", "look at the reward and at the options")
    for step in run.draft.steps:
        if step > there[-1]:  # of a stop, on the way that is left
            run.draft.forget(step)
    before = restore(run.draft.state(there[-1]), ppo, watchers)
    again = position.rollbacks + 1
    ppo.soften(again - before.rollbacks, run.inputs.config.seed + again)
    run.log.cut(before.step)
    run.reporter.notice(
        f"rollback {again} of {MOST_ROLLBACKS}: continuing from rollout {before.step} with half the learning rate, "
        f"KL coefficient {ppo.kl_coef:g} and other draws"
    )
    return replace(before, rollbacks=again)


def answers_of(ppo: PPO, judged: dict[str, list[float]]) -> Answers:
    """The newest rollout as the watchers read it, of all processes in each of them: all decide alike."""
    rollout = ppo.last_rollout
    assert rollout is not None
    mine = Answers(
        [prompt.row.prompt_text for prompt in rollout.prompts],
        rollout.completions,
        rollout.scores.tolist(),
        {name: scores.tolist() for name, scores in rollout.raw_scores.items()},
        [len(ids) for ids in rollout.completion_ids],
        rollout.ended.tolist(),
        judged,
    )
    if ppo.accelerator.num_processes == 1:
        return mine
    every: list[Answers] = gather_object([mine])

    def together(field: str) -> Any:
        first = getattr(every[0], field)
        if isinstance(first, dict):
            return {name: [x for one in every for x in getattr(one, field)[name]] for name in first}
        return [x for one in every for x in getattr(one, field)]

    return Answers(*(together(field.name) for field in fields(Answers)))


def save(folder: Path | None, ppo: PPO, watchers: Watchers, position: Position, last: dict[str, Any]) -> None:
    """A checkpoint to resume from; what `last` has of it is not as it is now. Without a folder as `write_state`."""
    write_state(
        folder,
        {
            "position": asdict(position),
            "weights": list(ppo.parameters),
            "ppo": ppo.state_dict() | last["ppo"],
            "watchers": json.dumps(watchers.state_dict()),
            "random": last["random"],
        },
    )


def kept_state(policy: Reference) -> Path:
    """The directory of the checkpoint that the policy was trained to. Raises ArtifactError where none was kept, or an
    earlier one alone, as of a run that an alarm stopped."""
    if policy.artifact is not None:
        steps, ended = saved_steps(policy.artifact.path), policy.artifact.manifest.resources.get("steps")
        if steps and steps[-1] != ended:
            kept = kept_steps(policy.artifact.path)  # of a step saved without --keep-state there is no model
            raise ArtifactError(
                f"--carry-optimizer: {policy.shown} ended at step {ended}, and its last optimizer's state is of "
                f"step {steps[-1]}",
                (f"start from --model {policy.artifact.ref}:step{kept[-1]}, or " if kept else "")
                + "leave --carry-optimizer out",
            )
        folder = policy.artifact.path / "state" / f"step{steps[-1] if steps else 0}"
    else:
        folder = (policy.path or Path()).parent
    if not (folder / VALUES).is_file():
        raise ArtifactError(
            f"--carry-optimizer: {policy.shown} has no optimizer's state",
            "make it with: prefcli ppo --keep-state --force; or leave --carry-optimizer out",
        )
    return folder


def carry_optimizer(folder: Path, ppo: PPO) -> None:
    """Start with the optimizer's moments of another run; rate and schedule are this run's.

    Raises ArtifactError: the other run trained other weights.
    """
    state = read_state(folder)
    if [w.shape for w in state["weights"]] != [p.shape for p in ppo.parameters]:
        raise ArtifactError(
            f"--carry-optimizer: {folder} is of other weights than are trained here",
            "use the same --lora-rank, --layout and --advantage as there, or leave --carry-optimizer out",
        )
    before = state["ppo"].get("optim", "adamw")
    if before != ppo.config.optim:
        raise ArtifactError(
            f"--carry-optimizer: {folder} is of --optim {before}, and {ppo.config.optim} is used here",
            f"use --optim {before}, or leave --carry-optimizer out",
        )
    own = ppo.optimizer.state_dict()
    ppo.load_optimizer(own | {"state": state["ppo"]["optimizer"]["state"]})


@torch.no_grad()
def restore(folder: Path, ppo: PPO, watchers: Watchers) -> Position:
    """Put a saved state back."""
    state = read_state(folder)
    for model in (ppo.roles.policy, ppo.roles.value):
        if model is not None:
            at_rest(model)
    for parameter, saved in zip(ppo.parameters, state["weights"], strict=True):
        put(parameter, saved)
    ppo.load_state_dict(state["ppo"])
    watchers.load_state_dict(json.loads(state["watchers"]))
    each = state["random"]
    set_random_state(each[ppo.accelerator.process_index % len(each)])
    return Position(**state["position"])


def passes(prompts: Sequence[Example], batch_size: int, seed: int, done: int = 0) -> Iterator[list[Prompt]]:
    """Batches without end: one shuffled pass over the prompts after another, no prompt left out at a pass's end.

    The first `done` batches are left out.
    """
    for batch in islice(_passes(len(prompts), batch_size, seed), done, None):
        yield [Prompt(found["prompt_ids"], found["of"]) for found in map(prompts.__getitem__, batch)]


def _passes(prompts: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    draw = random.Random(seed)
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += draw.sample(range(prompts), prompts)
        yield queue[:batch_size]
        queue = queue[batch_size:]


class Scorer:
    """All sources' scores of a rollout's answers, by name, scaled and weighted.

    A source of weight 0 judges: it moves nothing, and its scores as they are stay in `judged` for the watchers.
    """

    def __init__(
        self, sources: list[RewardSource], scales: dict[str, Scale], eos_ids: frozenset[int] = frozenset()
    ) -> None:
        self._sources, self._scales, self._eos_ids = sources, scales, eos_ids
        self.judged: dict[str, list[float]] = {}

    def __call__(
        self, prompts: list[Prompt], completion_ids: list[list[int]], completions: list[str]
    ) -> dict[str, Any]:
        answers = [
            Answer(prompt.row.prompt, text, prompt.ids, ids, prompt.row.columns, self._ended(ids))
            for prompt, ids, text in zip(prompts, completion_ids, completions)
        ]
        found = {}
        for source in self._sources:
            scores, scale = source.score(answers), self._scales[source.name]
            if scale.weight == 0:
                self.judged[source.name] = scores.tolist()
            else:
                found[source.name] = scale.apply(scores)
        return found

    def _ended(self, ids: list[int] | None) -> bool:
        return not ids or not self._eos_ids or ids[-1] in self._eos_ids


def _share(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise UsageError(
            f"{batch_size} prompts a rollout cannot be divided over {processes} processes",
            f"choose --batch-size (over --num-generations) as a multiple of {processes}",
        )
    return batch_size // processes
