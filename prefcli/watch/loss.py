"""Loss: what the loss and its gradient alone say of a run of sft, train-rm, dpo or kto.

It sees a gradient norm far outside its recent values; a loss above where it began; a loss that was 0 from the start, so
that nothing is trained; a loss that has come to nothing while every answer is right; and a held-out loss that rises
from its best, which is what overfitting is. It cannot see a run that is bad throughout and steady, a loss that comes
back up and stays below its start, overfitting without --eval-data, or damage that a falling loss hides (pairs.py looks
at what a loss on pairs is made of).

A loss that is not a number ends the run where it is logged (stages/trl_trainer.py): the weights are lost by then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import Any

from prefcli.watch.explosion import HISTORY, far_out
from prefcli.watch.records import Alarm, Answers, Sign
from prefcli.watch.series import Track, mean, steps_of, summary

NAME = "loss"
SIGNS = {
    "gradient": Sign(
        "notice", "A few extreme rows, or a step too large before this one", "Look for odd rows; lower --lr"
    ),
    "rises": Sign(
        "serious", "The steps are too large: the run unlearns", "Lower --lr, or raise --warmup or --batch-size"
    ),
    "zero": Sign(
        "serious",
        "Nothing is trained: the model agrees with all of it already, or no token is read",
        "Look at the rows with --dry-run, and at --model and --reference",
    ),
    "saturated": Sign(
        "notice",
        "From now on these rows are only memorised",
        "Stop earlier (--epochs); with dpo --loss ipo or --label-smoothing 0.1 keep the margins small",
    ),
    "held-out": Sign(
        "notice",
        "What is learnt by now does not carry over to rows that are not trained on",
        "Train for fewer steps (--max-steps, --epochs), or with a lower --lr",
    ),
}

START, RECENT = 3, 8  # steps that stand for "at first" and for "now"
START_ROWS, RECENT_ROWS = 24, 64  # and least rows of these
NOISE = 4.0  # standard errors by which "now" must lie above "at first", with a step's noise as it is now
RISE = 1.25  # times the first: measured, see docs/watchers.md
SATURATED_FOR = 20  # steps
SATURATED_LOSS, SATURATED_RIGHT = 0.05, 0.99  # share of the first loss, and least accuracy: measured, as above
HELD_OUT = 1.1  # times its best; the rows are the same each time, so there is little noise
RIGHT = ("rewards/accuracies", "accuracy", "mean_token_accuracy")  # the first that there is


class Loss:
    """`batch_size`: rows in a step."""

    def __init__(self, batch_size: int) -> None:
        self._first = steps_of(START_ROWS, batch_size, START)
        self._newest = steps_of(RECENT_ROWS, batch_size, RECENT)
        self._norms = Track(0, HISTORY)
        self._loss = Track(self._first, self._newest)
        self._flat = Track(1, SATURATED_FOR)  # [loss, accuracy]
        self._held_out: float | None = None  # the best
        self._tracks = {"norms": self._norms, "loss": self._loss, "flat": self._flat}

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        found = [*self._gradient(step, metrics), *self._overfits(step, metrics)]
        if "loss" in metrics:
            right = next((metrics[name] for name in RIGHT if name in metrics), 1.0)
            found += [*self._course(step, metrics["loss"]), *self._saturated(step, metrics["loss"], right)]
        return found

    def _gradient(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        norm = metrics.get("grad_norm")
        if norm is None:
            return
        past = self._norms.recent
        if far_out(past, norm):
            seen = f"the gradient norm is {norm:.3g}, its median over {len(past)} steps {median(past):.3g}"
            yield _alarm("gradient", step, seen)
        self._norms.add(norm)

    def _course(self, step: int, loss: float) -> Iterator[Alarm]:
        self._loss.add(loss)
        if self._loss.seen == self._first and not any(self._loss.start):
            yield _alarm("zero", step, f"the loss has been exactly 0 for the first {self._first} steps")
        first = mean(self._loss.start)
        if not self._loss.ready or first <= 0:
            return
        # The noise of the newest steps alone: a loss that leaps at once makes the first ones look noisier.
        now, noise = median(self._loss.recent), summary(self._loss.recent).deviation
        error = noise * math.sqrt(1 / self._first + 1 / self._newest)
        if now > RISE * first and now - first > NOISE * error:
            seen = f"the loss is {now:.3g}, median of {self._newest} steps, and was {first:.3g} at first"
            yield _alarm("rises", step, seen)

    def _saturated(self, step: int, loss: float, right: float) -> Iterator[Alarm]:
        self._flat.add([loss, right])
        first, rows = self._flat.start[0][0], self._flat.recent
        if not self._flat.ready or first <= 0:
            return
        now, accuracy = mean(row[0] for row in rows), mean(row[1] for row in rows)
        if now < SATURATED_LOSS * first and accuracy >= SATURATED_RIGHT:
            seen = f"over {SATURATED_FOR} steps the loss was {now:.2g}, at first {first:.2g}; {accuracy:.1%} were right"
            yield _alarm("saturated", step, seen)

    def _overfits(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        loss = metrics.get("eval_loss")
        if loss is None:
            return
        best = self._held_out = loss if self._held_out is None else min(self._held_out, loss)
        if loss > HELD_OUT * best > 0:
            yield _alarm("held-out", step, f"the loss on the held-out rows is {loss:.3g}, it was {best:.3g} at best")

    def state_dict(self) -> dict[str, Any]:
        return {name: track.state_dict() for name, track in self._tracks.items()} | {"held_out": self._held_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, track in self._tracks.items():
            track.load_state_dict(state[name])
        self._held_out = state["held_out"]


def _alarm(signal: str, step: int, seen: str) -> Alarm:
    return SIGNS[signal].alarm(NAME, signal, step, seen, unit="step")
