"""The rules: when each applies, what it rules out or how many points it gives to which methods, and why.

Points are a judgement: 1 leans, 2 speaks for, 3 and more decide among methods that are possible. They are added up and
shown. What a rule rules out is impossible, not worse, and no points bring it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from prefcli.advice.facts import DPO_FAMILY, METHODS, SAMPLING, Facts
from prefcli.advice.hardware import ANSWERS

# Where a judgement needs a number. None comes from a paper.
NOISY = 0.1  # share of wrong labels; the noise that robust's paper and its default are about (docs/dpo.md)
FEW_PAIRS = 200  # fewer, and each is as good as certain to the loss
MANY = 10  # times as many prompts as pairs
CONSISTENT = 20  # pairs labelled again without one contradiction: their labels are near certain
BARELY = 0.6  # a reward that is right in fewer pairs, at the upper end of the interval, hardly knows better
LARGE = 30_000_000_000  # parameters
TOO_LARGE_TO_ANSWER = "to answer prompts the model is not held in 4 bits, and so it does not fit into {f.device}"


@dataclass(frozen=True)
class Rule:
    """`because` is formatted with the facts as `f`; `evidence` are keys of EVIDENCE."""

    name: str
    when: Callable[[Facts], bool]
    because: str
    evidence: tuple[str, ...] = ()
    favours: Mapping[str, int] = field(default_factory=dict)
    rules_out: tuple[str, ...] = ()


def _each(methods: tuple[str, ...], points: int, **more: int) -> dict[str, int]:
    return dict.fromkeys(methods, points) | {name.replace("_", "-"): value for name, value in more.items()}


def _large(stage: str) -> Rule:
    methods = tuple(name for name, method in METHODS.items() if method.stage == stage)
    because = "not even an adapter fits into {f.device}"
    if stage == ANSWERS:
        methods, because = ("rejection", "rlaif", "iterative-dpo", "collect"), TOO_LARGE_TO_ANSWER
    return Rule(
        f"no-memory-{stage}", lambda f: bool(f.fits) and f.fits[stage] is None, because, ("memory",), rules_out=methods
    )


HARD = (
    Rule("no-pairs", lambda f: not f.pairs, "there are no pairs", rules_out=DPO_FAMILY),
    Rule("no-labels", lambda f: not f.labels, "no answers are labelled good or bad", rules_out=("kto",)),
    Rule(
        "nothing-scores",
        lambda f: not f.scored and not f.pairs,
        "nothing scores new answers, and there are no pairs to train a reward model on",
        rules_out=SAMPLING,
    ),
    Rule(
        "no-labeller",
        lambda f: not f.scored,
        "there is neither a judge nor a reward",
        rules_out=("rlaif", "rejection"),
    ),
    Rule("no-prompts", lambda f: not f.prompted, "there are no prompts to answer", rules_out=SAMPLING),
    Rule(
        "preferences-there",
        lambda f: bool(f.pairs or f.labels or (f.scored and f.prompted)),
        "there is something to learn from already",
        rules_out=("collect",),
    ),
    *map(_large, ("dpo", "dpo-rounds", "kto", "sft", "ppo", "rloo", ANSWERS)),
    Rule(
        "no-memory-to-judge",  # the answers that the judge labels, for a reward model
        lambda f: bool(f.fits) and f.fits[ANSWERS] is None and f.judge is not None and not (f.rewards or f.pairs),
        TOO_LARGE_TO_ANSWER,
        ("memory",),
        rules_out=("ppo", "rloo"),
    ),
)

SOFT = (
    Rule(
        "collect",
        lambda f: not f.pairs and not f.labels and not f.scored,
        "you need preferences first: nobody and nothing says which answers are good",
        ("people",),
        {"collect": 3},
    ),
    Rule(
        "no-prompts-yet",
        lambda f: not f.prompted and f.scored,
        "first there must be prompts, which a model answers and {f.labeller} labels",
        ("rlaif",),
        {"collect": 3},
    ),
    Rule("dpo-first", lambda f: True, "for most, DPO first, and RLHF when its limits are met", ("demo",), {"dpo": 1}),
    Rule(
        "good-pairs",
        lambda f: f.pairs >= FEW_PAIRS and f.noise < NOISY,
        "you have {f.pairs:,} pairs; {f.noise_said}",
        ("dpo",),
        _each(DPO_FAMILY, 2),
    ),
    Rule(
        "noisy-pairs",
        lambda f: f.noise >= NOISY,
        "{f.contradicted:,} of {f.relabelled:,} pairs labelled again are labelled both ways: "
        "about {f.noise_estimate:.0%} of labels are wrong (at least {f.noise:.0%})",
        ("noise", "robust", "robust-here"),
        {"robust-dpo": 4, "ipo": 2},
    ),
    Rule(
        "few-pairs",
        lambda f: 0 < f.pairs < FEW_PAIRS,
        "{f.pairs:,} pairs are few, and DPO's margins run away on few",
        ("ipo",),
        {"ipo": 2},
    ),
    Rule(
        "certain-pairs",
        lambda f: f.confirmed >= CONSISTENT and not f.contradicted,
        "all {f.confirmed:,} pairs labelled again got the same label: near certain preferences",
        ("ipo",),
        {"ipo": 2},
    ),
    Rule(
        "only-labels",
        lambda f: f.labels > 0 and not f.pairs,
        "{f.labels:,} answers are labelled good or bad, and there are no pairs",
        ("kto", "kto-here"),
        {"kto": 4},
    ),
    Rule(
        "more-labels",
        lambda f: f.pairs > 0 and f.labels > 2 * f.pairs,
        "{f.labels:,} labelled answers against {f.pairs:,} pairs; KTO takes both",
        ("kto", "kto-here"),
        {"kto": 4},
    ),
    Rule(
        "judge",
        lambda f: f.judge is not None and not f.pairs and not f.labels,
        "a language model can say which of two answers is better",
        ("rlaif", "rlaif-here"),
        {"rlaif": 3, "iterative-dpo": 2, "rejection": 1},
    ),
    Rule(
        "reward",
        lambda f: bool(f.rewards) and not f.pairs and not f.labels,
        "{f.rewards[0]} scores answers, so the best of several can be picked: the simplest there is",
        ("rejection", "rejection-here"),
        {"rejection": 3, "rlaif": 2, "iterative-dpo": 1, "ppo": 1, "rloo": 1},
    ),
    Rule(
        "reward-guesses",
        lambda f: f.reward_right is not None and f.reward_right[2] < BARELY,
        "the reward is right in {f.reward_right[0]:.0%} of pairs: hardly better than guessing",
        ("overoptimised",),
        {"ppo": -3, "rloo": -3, "rejection": -3, "rlaif": -1},
    ),
    Rule(
        "first-time",
        lambda f: "first-time" in f.aims,
        "it is your first time: two stages instead of three, and few knobs",
        ("dpo",),
        _each(DPO_FAMILY, 2, kto=2, rejection=1, rlaif=1),
    ),
    Rule(
        "stability",
        lambda f: "stability" in f.aims,
        "training should be predictable: nothing is sampled, and no reward model can be exploited",
        ("hacked", "seeds"),
        _each(DPO_FAMILY, 2, kto=2, rejection=1, ppo=-1),
    ),
    Rule(
        "little-time",
        lambda f: "little-time" in f.aims,
        "time is short: one training run on the data you have",
        ("demo",),
        _each(DPO_FAMILY, 2, kto=2, rejection=1, rloo=1),
    ),
    Rule(
        "research",
        lambda f: "research" in f.aims,
        "the research is about something else, so the plainest method disturbs it least",
        ("dpo",),
        _each(DPO_FAMILY, 2, kto=2, rejection=1),
    ),
    Rule(
        "little-memory",
        lambda f: f.pairs > 0 and f.all_weights("dpo") and not f.all_weights("ppo"),
        "in {f.device} DPO can train all weights and PPO cannot",
        ("memory", "lora"),
        _each(DPO_FAMILY, 1, kto=1),
    ),
    Rule(
        "no-value-model",
        lambda f: f.all_weights("rloo") and not f.all_weights("ppo"),
        "PPO with all weights fits into {f.device} only without its value model",
        ("rloo",),
        {"rloo": 2},
    ),
    Rule(
        "one-device",
        lambda f: f.gpus < 2 and f.pairs > 0,
        "there is one device, {f.device}: DPO holds two models where PPO holds four",
        ("memory", "lora"),
        _each(DPO_FAMILY, 1, kto=1),
    ),
    Rule(
        "iterate-on-reward",
        lambda f: "iterate-on-reward" in f.aims,
        "what counts as good will change: a reward alone is retrained, and PPO runs again from the same start",
        ("retrain",),
        {"ppo": 6, "rloo": 5, "rejection": 1},
    ),
    Rule(
        "several-objectives",
        lambda f: "several-objectives" in f.aims,
        "several objectives: a reward for each, and weights that change without training a reward again",
        ("two-rewards", "mixing"),
        {"ppo": 6, "rloo": 5, "rejection": 1},
    ),
    Rule(
        "online",
        lambda f: "online" in f.aims,
        "new prompts and labels keep coming: the policy's own new answers can be judged in rounds",
        ("online", "iterative-here"),
        {"iterative-dpo": 5, "ppo": 4, "rloo": 3},
    ),
    Rule(
        "many-prompts",
        lambda f: f.pairs > 0 and f.prompts >= MANY * f.pairs,
        "{f.prompts:,} prompts and only {f.pairs:,} pairs: a reward model carries the pairs over to the prompts",
        ("prompts",),
        {"ppo": 6, "rloo": 5, "rlaif": 3},
    ),
    Rule(
        "team",
        lambda f: "team" in f.aims,
        "there are people and infrastructure for RLHF, which pays where it is tuned",
        ("tuning", "disputed", "disputed-too"),
        {"ppo": 6, "rloo": 4},
    ),
    Rule(
        "very-large",
        lambda f: (f.params or 0) >= LARGE and (f.gpus >= 8 or "team" in f.aims),
        "a very large model on {f.device}: the large labs keep using variants of RLHF",
        ("large",),
        {"ppo": 6, "rloo": 5},
    ),
    Rule(
        "research-rlhf",
        lambda f: "research-rlhf" in f.aims,
        "the research is about RLHF itself",
        ("parts",),
        {"ppo": 6, "rloo": 4},
    ),
)
RULES = HARD + SOFT
