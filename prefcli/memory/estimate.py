"""From a run to bytes, by role and by part, at the phase where the most is in memory."""

from __future__ import annotations

from dataclasses import dataclass

from prefcli.memory import activations, states
from prefcli.memory.run import Role, Run

STATES = ("weights", "gradients", "optimizer")
PASSING = ("activations", "logits")
PARTS = STATES + PASSING

# phase → role → (activations, logits)
Phases = dict[str, dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class RoleEstimate:
    """One model's share: `parts` has every name in PARTS, in bytes."""

    trained: bool
    parameters: int
    parts: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Estimate:
    """The peak of a run on one device. Every byte of `bytes` is in one part of one role."""

    run: Run
    phase: str  # in which the peak is: "policy update", rollout, or the name of the frozen role at work
    roles: dict[str, RoleEstimate]

    @property
    def bytes(self) -> int:
        return sum(role.bytes for role in self.roles.values())

    @property
    def parts(self) -> dict[str, int]:
        return {part: sum(role.parts[part] for role in self.roles.values()) for part in PARTS}

    @property
    def state_bytes(self) -> int:
        """What stays through the run: the total without activations and logits."""
        return sum(self.parts[part] for part in STATES)


def estimate(run: Run) -> Estimate:
    """All states, and the activations and logits of the phase in which these are largest.

    The states of every role are there at all times. Activations come and go, so that phases do not add up:
    only the largest counts, and stands with the roles that are at work in it.
    """
    phases = _phases(run)
    phase = max(phases, key=lambda name: sum(map(sum, phases[name].values())))
    at_work = phases[phase]
    return Estimate(run, phase, {role.name: _role(run, role, at_work.get(role.name, (0, 0))) for role in run.roles})


def _role(run: Run, role: Role, passing: tuple[int, int]) -> RoleEstimate:
    parts = {
        "weights": states.weight_bytes(run, role),
        "gradients": states.gradient_bytes(run, role),
        "optimizer": states.optimizer_bytes(run, role),
        **dict(zip(PASSING, passing)),
    }
    return RoleEstimate(role.trained, states.role_parameters(run, role), parts)


def _phases(run: Run) -> Phases:
    """What is at work together.

    update: one trained role after another, each with a backward pass of its own.
    frozen roles: one forward pass after another.
    rollout: PPO's policy writes answers, with its key-value cache among the activations.
    """
    phases: Phases = {}
    for role in run.roles:
        passing = activations.training_bytes(run) if role.trained else activations.layer_bytes(run)
        name = f"{role.name} update" if role.trained else role.name
        phases[name] = {role.name: (passing, _head_bytes(run, role))}
    if run.stage == "ppo":
        # A step of decoding has one position a row, so its layer and its logits are nothing beside the cache.
        phases["rollout"] = {"policy": (activations.cache_bytes(run), 0)}
    return phases


def _head_bytes(run: Run, role: Role) -> int:
    return activations.score_bytes(run) if role.scores else activations.logit_bytes(run)
