"""From a run to bytes, by role and by part, at the moment when the most is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from prefcli.memory import activations, sharding, states
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
    """Memory beside weights and optimizer states: whose gradients, and what passes, by role and part. `roots`: the
    roles whose embeddings and heads are gathered, where models are split over processes."""

    phase: str
    gradients: frozenset[str] = frozenset()
    passing: dict[str, dict[str, int]] = field(default_factory=dict)
    roots: frozenset[str] = frozenset()


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
        parts["temporary"] += states.bucket_bytes(run, role)
        if role.name in moment.roots:
            parts["temporary"] += sharding.root_bytes(run, role)
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
    yield from _pass(run, frozenset(trained) if whole > 1 or run.grad_accum > 1 else frozenset())
    if whole == 1 and rest:  # the first, wider one meets no gradients
        yield from _pass(
            replace(run, batch_size=rest * run.unit, rollout=activations.rollout_answers(run)), frozenset(trained)
        )
    roots = frozenset() if run.shared_base else _roots(run, *_still_gathered(run, frozenset(trained)))
    yield Moment("optimizer step", frozenset(trained), {trained[0]: {"temporary": _step_bytes(run)}}, roots)


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
    gathered, reducing = 2 * sharding.layer_bytes(run, role), sharding.gradient_layer_bytes(run, role)
    roots = _roots(run, role, *_still_gathered(run, before))
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

    def moment(
        held: frozenset[str], copies: int, activation: int, logits: int, roots: frozenset[str] = roots
    ) -> Moment:
        passing = {"temporary": copies, "activations": activation, "logits": logits}
        return Moment(name, held, {role.name: passing}, roots)

    # The forward pass ends; each layer's last temporaries are gone.
    yield moment(before, copies + gathered, kept, 0)
    yield moment(before, copies, kept, logits)
    # The logits' gradient, beside what the chunks before have given the head. With checkpointing the copies are gone.
    held = 0 if run.checkpointing else copies
    chunked = activations.logit_rows(run, run.read) < run.read
    beside = head * run.dtype_bytes * (chunked and run.packed)
    yield moment(before, held + beside, kept, gradients)
    # The last layer's backward pass: the head's gradient waits for that of the embeddings where the two are tied.
    whole = head * (run.dtype_bytes if run.sharded else run.trained_bytes)
    yield moment(before, held + whole + gathered + reducing, kept + layer + working, 0)
    # The first layer's: all gradients are there. The embeddings' are made again beside earlier passes' ones, and where
    # the head is tied to them its own and the two's sum as well (autograd adds in place to what a cast has made).
    embeddings = 0 if run.lora_rank else a.vocab * a.hidden * run.trained_bytes
    tied = a.tied and not role.scores
    after = before | {role.name}
    if run.sharded:  # whole ones, in the format of the computation; then they are added up over the processes
        later, copy = sharding.root_gradient_bytes(run, role), sharding.copied_layer_bytes(run, role)
        yield moment(after, whole + gathered + reducing - later, layer + working, 0)
        embeddings = 0 if run.lora_rank else a.vocab * a.hidden * run.dtype_bytes
        yield moment(after, embeddings * (1 + tied * 2) + copy - later, 0, 0)
        yield moment(after, sharding.reduced_root_bytes(run, role), 0, 0, roots - _roots(run, role))
        return
    beside = embeddings * ((role.name in before) + tied * (1 if run.casts else 2))
    yield moment(after, max(beside - embeddings, 0), layer + working, 0)
    yield moment(after, beside, 0, 0)


def _reference(run: Run, earlier: frozenset[str]) -> Iterator[Moment]:
    """The frozen model's forward pass, one layer at a time; kto's reads each prompt with another's answer too, and has
    the policy read that."""
    if run.stage == "kto":
        run = replace(run, answers=2)
    for role in run.roles:
        if role.name == "reference" or (run.stage == "kto" and role.name == "policy"):
            yield Moment("reference", earlier, {role.name: _glance(run, role)}, _roots(run, role))


def _roots(run: Run, *roles: Role) -> frozenset[str]:
    """Those whose root is gathered: of roles on one base the first one's."""
    own = {role.name for role in roles if not run.on_policys_base(role)}
    return frozenset(own | {run.roles[0].name} if run.shared_base else own)


def _still_gathered(run: Run, updated: frozenset[str]) -> list[Role]:
    """Roles whose root was gathered for a forward pass, and given back by no backward pass yet."""
    looked_at = {"policy", "value", "reference"} if run.about.samples else {"reference"}
    return [role for role in run.roles if role.name in looked_at - updated]


def _glance(run: Run, role: Role) -> dict[str, int]:
    """A forward pass of which nothing is kept."""
    working = activations.working_bytes(run, run.tokens)
    logits = activations.score_bytes(run) if role.scores else activations.logit_bytes(run, run.read)
    held = states.copy_bytes(run, role) + 2 * sharding.layer_bytes(run, role)
    return {"temporary": held, "activations": working, "logits": logits}


def _rollout(run: Run) -> Iterator[Moment]:
    """PPO's policy reads the prompts and writes; then each role looks at the answers. Autocast keeps its copies of the
    trained weights through all of that."""
    policy = run.roles[0]
    copies = states.copy_bytes(run, policy)
    gathered = max(sharding.whole_bytes(run, policy), 2 * sharding.layer_bytes(run, policy))
    roots = _roots(run, policy, *(role for role in run.roles if role.name == "reference"))  # the last rollout's
    cache, answers = activations.cache_bytes(run), activations.sampled_answers(run)
    prompts = -(-answers // run.answers_per_row)
    reading = activations.working_bytes(run, prompts * (run.shared_prompt or run.max_length))
    sampling = activations.sampling_bytes(run)
    for passing in ({"activations": cache + reading}, {"activations": cache, "logits": sampling}):
        yield Moment("rollout", passing={policy.name: {"temporary": copies + gathered} | passing}, roots=roots)
    for role in run.roles:
        each = {policy.name: {"temporary": copies}, role.name: _glance(run, role)}
        if role.name == "reward":
            each[role.name]["temporary"] += sharding.whole_bytes(run, role)
            yield Moment("scoring", passing=each, roots=_roots(run, role) | (roots - {policy.name}))
        else:
            yield Moment("scoring", passing=each, roots=_roots(run, *_still_gathered(run, frozenset())))


def _step_bytes(run: Run) -> int:
    """Temporary memory of the optimizer: nothing in a fused kernel; else tensors as large as the largest weight."""
    a = run.architecture
    if run.lora_rank or run.optimizer == "sgd" or (run.optimizer == "adamw" and run.device == "cuda"):
        return 0
    tensors = {"adamw": 2, "adamw-8bit": 0, "adafactor": 3}[run.optimizer]
    return tensors * activations.largest_weight(a) * 4 // (run.shards if run.zero else 1)
