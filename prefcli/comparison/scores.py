"""Every model's answers to the same held-out prompts, scored once and kept: all criteria look at the same scores.

Kept below the artifact store under a key of everything that decides them, so that a second look costs no sampling.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from prefcli.artifacts.commands import REWARD
from prefcli.artifacts.parts import ALONE, unfinished
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.routes import Route
from prefcli.config.compare import CompareConfig
from prefcli.config.evaluate import EvalConfig
from prefcli.config.frontier import FrontierConfig
from prefcli.data.dataset import read_dataset
from prefcli.data.rows import Rows
from prefcli.evaluation.measured import Setting, measure, measuring
from prefcli.evaluation.placement import Placement
from prefcli.evaluation.prompts import short_ones
from prefcli.files import digest_json, write_atomically
from prefcli.models.devices import computed_on, pick_device, pick_dtype
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec, parse_rewards, refuse_language_model
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import RewardSource

Cause = tuple[str, str | None]  # the digest of a reward, or what names it where it has none; the function of a program
PYTHON = "python:"
FOLDER = ".cache/scores"  # below the artifact store
SCORING = 2  # raised where the same answers are scored otherwise: as ppo scores them
SUM = "sha256"  # in a file of it: of all the rest


@dataclass(frozen=True)
class Scored:
    """One model on the prompts, in their order: scores by source, KL to the start in nats (None where it reads other
    ids), and the answers."""

    scores: dict[str, list[float]]
    kl: list[float] | None
    completions: list[str]
    measures: dict[str, float]


@dataclass
class Scores:
    """The first of `specs` decides. `own`: the names of those that a route was trained against."""

    config: CompareConfig | FrontierConfig
    store: Store
    start: Reference
    specs: list[RewardSpec]
    own: frozenset[str]
    rows: Rows
    reporter: Reporter
    _data: list[str]
    _sources: list[RewardSource] | None = None
    _kept: dict[str, Scored] = field(default_factory=dict)

    @property
    def trusted(self) -> str:
        return self.specs[0].name

    @property
    def independent(self) -> bool:
        """Whether no route was trained against what is trusted."""
        return self.trusted not in self.own

    def of(self, model: Artifact | Reference) -> Scored:
        """Sampled and scored now, or as it was before. Raises as `models.answer` and the reward sources do."""
        reference = resolve(model.ref, self.store) if isinstance(model, Artifact) else model
        if reference.shown not in self._kept:
            self._kept[reference.shown] = self._from_disk(reference) or self._measured(reference)
        return self._kept[reference.shown]

    def values(self, model: Artifact | Reference, source: str | None = None) -> list[float]:
        """One score a prompt, by the trusted source unless another is named."""
        return self.of(model).scores[source or self.trusted]

    def mean(self, model: Artifact | Reference) -> float:
        return fmean(self.values(model))

    def _from_disk(self, reference: Reference) -> Scored | None:
        key = self._key(reference)
        try:
            kept = json.loads((self.store.root / FOLDER / f"{key}.json").read_text(encoding="utf-8"))
            expected = kept.pop(SUM)
            return Scored(**kept) if expected == digest_json(kept) else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # broken: it costs a second look

    def _key(self, reference: Reference) -> str | None:
        """None where something that decides the scores cannot be pinned."""
        digests = [reference.digest, self.start.digest, *(spec.digest for spec in self.specs)]
        if None in digests:
            return None
        c = self.config
        how = [SCORING, c.max_prompts, c.max_prompt_length, c.max_new_tokens, c.temperature, c.seed]
        named = [[spec.name, spec.function, spec.label] for spec in self.specs]
        return digest_json([digests, named, self._data, how, computed_on(self._place.device, self._place.dtype)])[:32]

    @cached_property
    def _place(self) -> Placement:
        device = pick_device(self.config.device)
        return Placement(device, pick_dtype(self.config.dtype, device))

    def _measured(self, reference: Reference) -> Scored:
        c = self.config
        sampling = EvalConfig(
            max_new_tokens=c.max_new_tokens, temperature=c.temperature, batch_size=c.batch_size, seed=c.seed
        )
        setting = Setting(sampling, self.store, self._place, self.reporter)
        if self._sources is None:
            self._sources = [setting.place.reward(spec, None, self.reporter) for spec in self.specs]
        with unfinished(ALONE, self.reporter) as work:
            work.open_aside()
            job = measuring(work, 0, self.rows, sampling)
            work.begin(f"answers of {reference.shown}", job)
            one = measure(reference, self.start, self.rows, self._sources, setting, job)
            found = Scored(one.means, one.kl, [texts[0] for texts in one.texts], one.measures)
        self.keep(found, reference)
        return found

    def keep(self, found: Scored, reference: Reference) -> None:
        """For a second look, with a checksum; where that cannot be, it is said."""
        key = self._key(reference)
        if key is None:
            return
        path = self.store.root / FOLDER / f"{key}.json"
        kept = json.loads(json.dumps(vars(found)))  # as it will be read: the digest is of that
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(kept | {SUM: digest_json(kept)}, ensure_ascii=False))
        except OSError as error:
            self.reporter.notice(f"the scores cannot be kept for a second look: {error}")


def open_scores(
    config: CompareConfig | FrontierConfig,
    store: Store,
    start: Reference,
    own_rewards: list[Artifact],
    reporter: Reporter,
    trained_against: Collection[Cause] = (),
) -> Scores | None:
    """Open the sources that score the routes: --reward, and as proxies the reward models of the routes' own training.

    None without prompts, or without any source. Raises DataError, ArtifactError, UsageError as everywhere.
    """
    specs = parse_rewards(config.reward, store)
    for spec in specs:
        refuse_language_model(spec)
    for reward in own_rewards:
        spec = replace(parse_rewards([reward.ref], store)[0], name=reward.ref)
        if spec.digest not in {known.digest for known in specs}:
            specs.append(spec)
    if not (config.prompts and specs):
        return None
    data = read_dataset(list(config.prompts), "prompts", config.skip_bad)
    try_functions(specs, data.rows[0])
    tokenizer = load_tokenizer(start, reporter)
    others = [spec.reference for spec in specs if spec.reference]
    rows, _ = short_ones(data.rows[: config.max_prompts], tokenizer, config.max_prompt_length, reporter, others)
    own = {(reward.digest, None) for reward in own_rewards} | set(trained_against)
    names = frozenset(spec.name for spec in specs if (spec.digest or spec.text, spec.function) in own)
    return Scores(config, store, start, specs, names, rows, reporter, data.digests)


def causes(routes: Iterable[Route]) -> set[Cause]:
    """The rewards that the routes were trained against: reward models, programs and services alike."""
    parents = [a.manifest.parents[role] for route in routes for a in route.artifacts for role in a.manifest.parents
               if role.startswith(REWARD)]  # fmt: skip
    return {
        (parent["digest"] or parent["ref"], parent["ref"].rpartition(":")[2] if PYTHON in parent["ref"] else None)
        for parent in parents
    }
