"""The facts of a user's situation, and the methods that can be recommended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from prefcli.advice.hardware import Fit
from prefcli.artifacts.manifest import NAME


@dataclass(frozen=True)
class Method:
    """`family`: members do the same work with another loss or estimator. `stage` decides what it takes in memory."""

    title: str
    family: str
    stage: str


METHODS = {
    "dpo": Method("DPO on your pairs", "dpo", "dpo"),
    "robust-dpo": Method("DPO with the loss for noisy labels (robust)", "dpo", "dpo"),
    "ipo": Method("DPO with the IPO loss", "dpo", "dpo"),
    "kto": Method("KTO on your labelled answers", "kto", "kto"),
    "ppo": Method("RLHF: a reward and PPO", "rl", "ppo"),
    "rloo": Method("RLHF without a value model: RLOO", "rl", "rloo"),
    "rejection": Method("rejection sampling: fine-tune on the best of n answers", "rejection", "sft"),
    "rlaif": Method("RLAIF: pairs labelled by a model, then DPO", "rlaif", "dpo"),
    "iterative-dpo": Method("iterative DPO: new answers, labels and DPO, in rounds", "iterative-dpo", "dpo-rounds"),
    "collect": Method("preferences first: label answers, then DPO", "collect", "dpo"),
}
DPO_FAMILY = ("dpo", "robust-dpo", "ipo")
# What needs answers of the model itself.
SAMPLING = ("ppo", "rloo", "rejection", "rlaif", "iterative-dpo")


@dataclass(frozen=True)
class Facts:
    """Counts are rows that can be used. Shares are of 1; None is not known.

    `noise` is the least share of wrong labels that the pairs themselves show, `noise_estimate` the likeliest.
    `fits` has each stage's place in memory, None where it has none; an empty mapping was not checked.
    """

    pairs: int = 0
    labels: int = 0
    demos: int = 0
    prompts: int = 0  # without answers
    noise: float = 0.0
    noise_estimate: float | None = None
    relabelled: int = 0  # pairs that were labelled more than once
    contradicted: int = 0  # of these, both ways
    confirmed: int = 0  # of these, the same way, in rows that differ elsewhere (by whom, when)
    copies: int = 0
    ties: int = 0
    same_sides: int = 0
    longer_chosen: float | None = None
    longer_interval: tuple[float, float] | None = None
    rewards: tuple[str, ...] = ()
    reward_right: tuple[float, float, float] | None = None  # share of pairs, and its interval
    judge: str | None = None
    aims: frozenset[str] = frozenset()
    model: str | None = None
    params: int | None = None
    device: str = ""
    gpus: int = 0
    fits: Mapping[str, Fit | None] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # kind of rows → files
    unclean: frozenset[str] = frozenset()  # files with rows that do not fit
    reading: tuple[str, ...] = ()  # --map and --split, for the commands that read the files

    def fit(self, method: str) -> Fit | None:
        return self.fits.get(METHODS[method].stage)

    def all_weights(self, method: str) -> bool:
        """Whether there is memory for training all weights, over all GPUs; True where memory was not checked."""
        fit = self.fit(method)
        return not self.fits or (fit is not None and not fit.lora)

    @property
    def reward_models(self) -> int:
        """Those that PPO would train first where no reward is given: one, or one for each objective's file."""
        files = self.files.get("pairs", ())
        return len(files) if "several-objectives" in self.aims and files else 1

    @property
    def scored(self) -> bool:
        """Whether there is somebody or something that judges new answers, without training it first."""
        return bool(self.rewards or self.judge)

    @property
    def labeller(self) -> str:
        """The option of `label --by` for who or what judges new answers."""
        if self.rewards:
            name, equals, what = self.rewards[0].partition("=")
            return what if equals and NAME.fullmatch(name) else self.rewards[0]
        return f"judge:{self.judge}" if self.judge else "human"

    @property
    def noise_said(self) -> str:
        """What the labels show of their own noise; labels given once show nothing."""
        if not self.relabelled:
            return "none is labelled twice, so how noisy they are is not known"
        return f"of {self.relabelled:,} labelled again, {self.contradicted:,} are labelled both ways"

    @property
    def prompted(self) -> bool:
        """Whether there are prompts to answer: any rows but plain texts have some."""
        return any(self.files.get(kind) for kind in ("prompts", "pairs", "labels", "answered"))
