"""All watchers together, and the effect of an alarm.

The stages on TRL's trainers call them once a logged step (stages/trl_trainer.py), ppo once a rollout, in each process
with the `Answers` of all, so that all decide alike:

    watchers = Watchers(of_ppo(config))         # before the loop; load_state_dict() where a run is resumed
    metrics, rollout = ppo.step(batch), ppo.last_rollout
    answers = Answers([p.row.prompt_text for p in rollout.prompts], rollout.completions,
                      rollout.scores.tolist(), {name: s.tolist() for name, s in rollout.raw_scores.items()},
                      [len(ids) for ids in rollout.completion_ids], rollout.ended.tolist())
    act(watchers.observe(step, metrics, answers), config.on_alarm, reporter)

`--on-alarm`:

    warn       every alarm is a notice, and the run continues
    stop       the same, then a serious one raises AlarmError (exit 6); the stage keeps what it has, as `stopped`
    rollback   the same as warn, and where `act` returns serious alarms the stage (ppo alone) goes back to a saved
               step, with the watchers' state of that step, and changes something (a lower rate, a higher KL
               coefficient), or the same alarm comes back

The watchers' state goes into the run's own beside the optimizer's: `state["watchers"] = watchers.state_dict()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from prefcli.errors import AlarmError
from prefcli.progress import Reporter
from prefcli.watch import explosion, loss, mode_collapse, pairs, reward_hacking, sampling, stalling
from prefcli.watch.records import NO_ANSWERS, Alarm, Answers, Watcher, not_finite

OnAlarm = Literal["warn", "stop", "rollback"]
FAILED = "This is a defect of prefcli, not of the run. The run continues without this watcher"
REPEAT_AFTER = 50  # rollouts or steps until a sign that is still there is named again


class WatchConfig(Protocol):
    """The options that the watchers read."""

    @property
    def kl_budget(self) -> float | None: ...  # nats; None or 0: no budget

    @property
    def value_warmup(self) -> int: ...  # rollouts in which the policy is meant to stand still

    @property
    def advantage(self) -> str: ...  # "gae", or one that compares answers to the same prompt


def of_ppo(config: WatchConfig) -> dict[str, Watcher]:
    return {
        explosion.NAME: explosion.Explosion(config.value_warmup),
        reward_hacking.NAME: reward_hacking.RewardHacking(config.kl_budget),
        mode_collapse.NAME: mode_collapse.ModeCollapse(),
        stalling.NAME: stalling.Stalling(config.value_warmup, grouped=config.advantage != "gae"),
        sampling.NAME: sampling.Sampling(),
    }


def of_training(batch_size: int, beta: float | None = None, *, from_reference: bool = False) -> dict[str, Watcher]:
    """Of sft, train-rm, dpo and kto; see `pairs.Pairs` for the arguments."""
    return {loss.NAME: loss.Loss(batch_size), pairs.NAME: pairs.Pairs(batch_size, beta, from_reference=from_reference)}


class Watchers:
    """`report` is called once with each alarm that `observe` returns.

    A watcher that raises does not end the run: what it raised becomes an alarm of its own (`Alarm.failed`, a notice).
    `unit`: what is counted, rollouts of ppo or steps.
    """

    def __init__(
        self, watchers: Mapping[str, Watcher], report: Callable[[Alarm], None] | None = None, unit: str = "rollout"
    ) -> None:
        self._watchers = watchers
        self._unit = unit
        self._unread: dict[str, Exception] = {}  # watcher → why its saved state could not be loaded
        self._report = report
        self._spoken: dict[str, int] = {}  # "watcher: signal" → the rollout at which it was last named

    def observe(self, step: int, metrics: dict[str, float], answers: Answers = NO_ANSWERS) -> list[Alarm]:
        """All watchers' alarms at this rollout or step, the serious ones first, without those named lately."""
        # A NaN would stay in the others' histories for good.
        awake = [explosion.NAME] if not_finite(metrics, answers) else list(self._watchers)
        seen = [self._failure(name, step, error) for name, error in self._unread.items()]
        self._unread = {}
        for name in awake:
            seen += self._asked(name, step, metrics, answers)
        alarms = [alarm for alarm in seen if self._is_news(alarm)]
        alarms.sort(key=lambda alarm: alarm.severity != "serious")
        if self._report is not None:
            for alarm in alarms:
                self._report(alarm)
        return alarms

    def _asked(self, name: str, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        if name not in self._watchers:
            return []
        try:
            return self._watchers[name].observe(step, metrics, answers)
        except Exception as error:  # whatever it is: it is not a reason to lose a run
            return [self._failure(name, step, error)]

    def _failure(self, name: str, step: int, error: Exception) -> Alarm:
        seen = f"{type(error).__name__}: {error}"
        return Alarm(name, "failed", step, "notice", seen, FAILED, "", self._unit, failed=True)

    def _is_news(self, alarm: Alarm) -> bool:
        sign = f"{alarm.watcher}: {alarm.signal}"
        if sign in self._spoken and alarm.step - self._spoken[sign] < REPEAT_AFTER:
            return False
        self._spoken[sign] = alarm.step
        return True

    def state_dict(self) -> dict[str, Any]:
        return {
            "watchers": {name: watcher.state_dict() for name, watcher in self._watchers.items()},
            "spoken": dict(self._spoken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, watcher in self._watchers.items():
            try:
                watcher.load_state_dict(state["watchers"][name])
            except Exception as error:
                self._unread[name] = error
        self._spoken = dict(state["spoken"])


def logged(alarms: Sequence[Alarm]) -> dict[str, float]:
    """A step's alarms for metrics.jsonl: "alarm/NAME", and "watcher_failed/NAME" of one that broke."""
    return {f"{'watcher_failed' if alarm.failed else 'alarm'}/{alarm.watcher}": 1.0 for alarm in alarms}


def act(alarms: Sequence[Alarm], on_alarm: OnAlarm, reporter: Reporter) -> list[Alarm]:
    """Notice every alarm; return the serious ones.

    Raises AlarmError for the first serious one where `on_alarm` is "stop".
    """
    for alarm in alarms:
        reporter.notice(alarm.message)
    serious = [alarm for alarm in alarms if alarm.severity == "serious"]
    if serious and on_alarm == "stop":
        raise AlarmError(serious[0].headline, serious[0].advice)
    return serious
