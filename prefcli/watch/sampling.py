"""Sampling drift: the server that answers for the policy draws from another distribution than the policy's.

It sees the mean over a rollout's tokens of the two programs' difference, which importance weights correct only while
it is small, and the mean ratio, which is 1 for any two distributions on the same tokens and less where the server never
draws some. It cannot see which of the two is right, or a difference on prompts that are not sampled.
"""

from __future__ import annotations

from typing import Any

from prefcli.watch.records import Alarm, Answers, Sign
from prefcli.watch.series import mean

NAME = "sampling drift"

WINDOW = 3  # rollouts
KL = 0.01  # nats a token. Rounding: 5e-5 between bfloat16 and float32, docs/engine.md
RATIO_OFF = 0.05  # of the mean ratio from 1: 5 % of the probability is never drawn, or a few tokens weigh everything
ADVICE = "Look at the server's log; give it the same --dtype as the run, without quantisation; or leave --generate out"
SIGNS = {
    "kl": Sign("serious", "The answers are not the policy's: the server rounds, caches or cuts otherwise", ADVICE),
    "ratio": Sign("serious", "The server leaves out answers that the policy could give, or the reverse", ADVICE),
}


class Sampling:
    """Of runs with --generate; without it there are no such metrics, and it is silent."""

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {"sampling/kl": [], "sampling/ratio_mean": []}

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        for name, values in self._seen.items():
            if name in metrics:
                values[:] = [*values, metrics[name]][-WINDOW:]
        kl, ratio = (mean(values) if len(values) == WINDOW else None for values in self._seen.values())
        alarms = []
        if kl is not None and kl > KL:
            alarms.append(SIGNS["kl"].alarm(NAME, "kl", step, f"{kl:.2g} nats a token between server and policy"))
        if ratio is not None and abs(ratio - 1) > RATIO_OFF:
            seen = f"the mean of policy / server is {ratio:.3f}, and 1 is expected"
            alarms.append(SIGNS["ratio"].alarm(NAME, "ratio", step, seen))
        return alarms

    def state_dict(self) -> dict[str, Any]:
        return {name: list(values) for name, values in self._seen.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = {name: list(state[name]) for name in self._seen}
