"""From a run to bytes, by role and by part, at the moment when the most is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from prefcli.memory import activations, states
from prefcli.memory.run import Role, Run

STATES = ("weights", "gradients", "optimizer")
PASSING = ("temporary", "activations", "logits")
PARTS = STATES + PASSING
# cuBLAS's, which PyTorch takes from its own allocator: 32 MiB on Hopper (its CUDA notes, CUBLAS_WORKSPACE_CONFIG), once
# for the thread of the forward pass and once for that of the backward pass. Older GPUs take 8 MiB.
WORKSPACES = 2 * 32 * 2**20


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
    phase: str  # in which the peak is
    roles: dict[str, RoleEstimate]
    phases: dict[str, int]  # each one's peak

    @property
    def bytes(self) -> int:
        return sum(role.bytes for role in self.roles.values())

    @property
    def parts(self) -> dict[str, int]:
        return {part: sum(role.parts[part] for role in self.roles.values()) for part in PARTS}

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and optimizer states of all roles, whether or not the peak has them all."""
        counted = (states.weight_bytes, states.gradient_bytes, states.optimizer_bytes)
        return sum(count(self.run, role) for role in self.run.roles for count in counted)


@dataclass(frozen=True)
class Moment:
    """Memory beside weights and optimizer states: whose gradients, and what passes, by role and part."""

    phase: str
    gradients: frozenset[str] = frozenset()
    passing: dict[str, dict[str, int]] = field(default_factory=dict)


def estimate(run: Run) -> Estimate:
    """The largest of the moments of a step (of a rollout and its updates, for ppo)."""
    found = [(moment, _roles(run, moment)) for moment in _moments(run)]
    phases: dict[str, int] = {}
    for moment, roles in found:
        total = sum(role.bytes for role in roles.values())
        phases[moment.phase] = max(phases.get(moment.phase, 0), total)
    moment, roles = max(found, key=lambda one: sum(role.bytes for role in one[1].values()))
    return Estimate(run, moment.phase, roles, phases)


def _roles(run: Run, moment: Moment) -> dict[str, RoleEstimate]:
    found = {}
    for role in run.roles:
        passing = moment.passing.get(role.name, {})
        parts = {
            "weights": states.weight_bytes(run, role),
            "gradients": states.gradient_bytes(run, role) if role.name in moment.gradients else 0,
            "optimizer": states.optimizer_bytes(run, role),
            **{part: passing.get(part, 0) for part in PASSING},
        }
        if role == run.roles[0] and run.device == "cuda":
            parts["temporary"] += WORKSPACES
        found[role.name] = RoleEstimate(role.trained, states.role_parameters(run, role), parts)
    return found


def _moments(run: Run) -> Iterator[Moment]:
    """A step in its order. No gradients are there before its first backward pass."""
    trained = [role.name for role in run.roles if role.trained]
    if run.about.samples:
        yield from _rollout(run)
    whole, rest = divmod(run.rows_of_batch, run.rows_of_pass)
    yield from _pass(run, frozenset(trained) if whole > 1 or run.accumulates else frozenset())
    if whole == 1 and rest:  # the first, wider one meets no gradients
        unit = run.answers_per_row if run.about.samples else 1
        yield from _pass(
            replace(run, batch_size=rest * unit, rollout=activations.rollout_answers(run)), frozenset(trained)
        )
    yield Moment("optimizer step", frozenset(trained), {trained[0]: {"temporary": _step_bytes(run)}})


def _pass(run: Run, earlier: frozenset[str]) -> Iterator[Moment]:
    """The passes of a batch: the reference's forward pass, then each trained role's both."""
    if not run.about.samples:
        yield from _reference(run, earlier)
    trained = [role for role in run.roles if role.trained]
    for number, role in enumerate(trained):
        yield from _update(run, role, earlier | {role.name for role in trained[:number]})


def _update(run: Run, role: Role, before: frozenset[str]) -> Iterator[Moment]:
    """Forward and backward pass of one trained role."""
    a, name, copies = run.architecture, f"{role.name} update", states.copy_bytes(run, role)
    kept = activations.training_bytes(run)
    layer = activations.layer_bytes(run) if run.checkpointing else 0
    working = activations.gradient_working_bytes(run)
    head = 0 if run.lora_rank or role.scores else a.vocab * a.hidden
    if role.scores:
        logits = gradients = activations.score_bytes(run)
    else:
        at_a_time = run if run.packed else replace(run, logit_chunk=run.read)  # the model's own head makes them all
        parts = (activations.logit_bytes, activations.logit_gradient_bytes)
        logits, gradients = (bytes_of(at_a_time, run.read) for bytes_of in parts)
        kept += run.read * a.hidden * run.dtype_bytes

    def moment(held: frozenset[str], copies: int, activation: int, logits: int) -> Moment:
        return Moment(name, held, {role.name: {"temporary": copies, "activations": activation, "logits": logits}})

    # The forward pass ends; each layer's last temporaries are gone.
    yield moment(before, copies, kept, logits)
    # The logits' gradient, beside what the chunks before have given the head. With checkpointing the copies are gone.
    held = 0 if run.checkpointing else copies
    chunked = activations.logit_rows(run, run.read) < run.read
    beside = head * run.dtype_bytes * (chunked and run.packed)
    yield moment(before, held + beside, kept, gradients)
    # The last layer's backward pass: the head's gradient waits for that of the embeddings where the two are tied.
    whole = head * run.trained_bytes
    yield moment(before, held + whole, kept + layer + working, 0)
    # The first layer's: all gradients are there. The embeddings' are made again beside earlier passes' ones, and where
    # the head is tied to them its own and the two's sum as well (autograd adds in place to what a cast has made).
    embeddings = 0 if run.lora_rank else a.vocab * a.hidden * run.trained_bytes
    tied = a.tied and not role.scores
    beside = embeddings * ((role.name in before) + tied * (1 if run.casts else 2))
    after = before | {role.name}
    yield moment(after, max(beside - embeddings, 0), layer + working, 0)
    yield moment(after, beside, 0, 0)


def _reference(run: Run, earlier: frozenset[str]) -> Iterator[Moment]:
    """The frozen model's forward pass, one layer at a time; kto's reads each prompt with another's answer too, and has
    the policy read that."""
    if run.stage == "kto":
        run = replace(run, answers=2)
    for role in run.roles:
        if role.name == "reference" or (run.stage == "kto" and role.name == "policy"):
            yield Moment("reference", earlier, {role.name: _glance(run, role)})


def _glance(run: Run, role: Role) -> dict[str, int]:
    """A forward pass of which nothing is kept."""
    working = activations.working_bytes(run, run.tokens)
    logits = activations.score_bytes(run) if role.scores else activations.logit_bytes(run, run.read)
    return {"temporary": states.copy_bytes(run, role), "activations": working, "logits": logits}


def _rollout(run: Run) -> Iterator[Moment]:
    """PPO's policy reads the prompts and writes; then each role looks at the answers. Autocast keeps its copies of the
    trained weights through all of that."""
    policy = run.roles[0]
    copies = states.copy_bytes(run, policy)
    cache, answers = activations.cache_bytes(run), activations.sampled_answers(run)
    prompts = -(-answers // run.answers_per_row)
    reading = activations.working_bytes(run, prompts * (run.shared_prompt or run.max_length))
    sampling = activations.sampling_bytes(run)
    yield Moment("rollout", passing={policy.name: {"temporary": copies, "activations": cache + reading}})
    yield Moment("rollout", passing={policy.name: {"temporary": copies, "activations": cache, "logits": sampling}})
    for role in run.roles:
        passing = {policy.name: {"temporary": copies}}
        passing[role.name] = _glance(run, role)
        yield Moment("scoring", passing=passing)


def _step_bytes(run: Run) -> int:
    """Temporary memory of the optimizer: nothing in a fused kernel; else tensors as large as the largest weight."""
    a = run.architecture
    if run.lora_rank or run.optimizer == "sgd" or (run.optimizer == "adamw" and run.device == "cuda"):
        return 0
    tensors = {"adamw": 2, "adamw-8bit": 0, "adafactor": 3}[run.optimizer]
    return tensors * activations.largest_weight(a) * 4
