"""The commands that carry a recommendation out, as lines for a shell, with the user's own files and model in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from prefcli.advice.facts import Facts
from prefcli.advice.hardware import ANSWERS as ANSWERING
from prefcli.advice.script import Script, Variable, Word, each, shown
from prefcli.artifacts.manifest import NAME

ANSWERS = ("--num-generations", "4", "--temperature", "1")  # as in docs/hybrids.md
# In the name of a model that follows instructions.
TUNED = re.compile("instruct|chat|(?<![a-z])(it|sft|dpo|ppo|kto)(?![a-z])")
PUT_MODEL = "your-model"
MOST_SMOOTHING = 0.3  # the robust loss divides by 1 − 2ε: 0.4 of a loss is left, and beyond it is noise


def commands(method: str, facts: Facts) -> tuple[list[str], list[str]]:
    """Lines for a POSIX shell, in order, and notes on what to do before or after them."""
    script = Script(facts)
    MAKERS[method](script, _start(script, method))
    if any("--shard" in line for line in script.lines):
        script.notes.append(
            "--shard splits every model over the GPUs of torchrun; docs/scaling.md has several machines."
        )
    if len(facts.rewards) > 1 and any(" label " in line for line in script.lines):
        script.notes.append(
            f"label asks one judge, here the first reward, {facts.labeller}; ppo and rloo add up all of them."
        )
    answers = any(re.search(r"prefcli (sample|label|eval) ", text) for text in script.lines + script.notes)
    if answers and facts.fits and facts.fits.get(ANSWERING) is None:
        script.notes.append(
            f"To answer prompts the model is not held in 4 bits, and so does not fit into {facts.device}: evaluate it "
            "on a larger device, or on several GPUs with --shard."
        )
    if any("--load-in-4bit" in line for line in script.lines):
        script.notes.append("--load-in-4bit needs bitsandbytes: pip install 'prefcli[qlora]'.")
    return script.lines, script.notes


def _start(script: Script, method: str) -> Word:
    """The model that training continues from: fine-tuned first where there is something to imitate."""
    facts = script.facts
    model: Word = facts.model or Variable("MODEL")
    if facts.model is None:
        script.lines.append(f"MODEL={PUT_MODEL}")
        script.notes.append(f"Replace {PUT_MODEL} by your model: a directory, a GGUF file or a hub id.")
    files = facts.files.get("demos") or () if _tuned(facts.model) else _first(facts, "demos", "pairs", "labels")
    if not files:
        return model
    if not facts.files.get("demos"):
        script.notes.append(
            "Without demonstrations sft imitates the good answers; skip it if your model answers well already."
        )
    return script.run("sft", "--model", model, *each("--data", files), stage="sft", into="SFT")


def _tuned(model: str | None) -> bool:
    """Whether a model's name says that it answers already."""
    return model is not None and TUNED.search(Path(model).name.lower()) is not None


def _dpo(script: Script, start: Word) -> None:
    _train_dpo(script, start)


def _robust(script: Script, start: Word) -> None:
    share = script.facts.noise_estimate or 0.0
    if share > MOST_SMOOTHING:
        script.notes.append(
            f"About {share:.0%} of the labels may be wrong, which no loss makes good: first repair or drop the pairs "
            "that are labelled both ways (prefcli data check FILE names them)."
        )
    share = min(MOST_SMOOTHING, share)
    _train_dpo(script, start, "--loss", "robust", "--label-smoothing", f"{max(0.01, share):.2f}")


def _ipo(script: Script, start: Word) -> None:
    _train_dpo(script, start, "--loss", "ipo")


def _train_dpo(script: Script, start: Word, *loss: str) -> None:
    pairs = script.facts.files.get("pairs", ())
    data = each("--data", pairs)
    if "several-objectives" in script.facts.aims and len(pairs) > 1:
        weight = f"{1 / len(pairs):.2g}"
        data = [word for file in pairs for word in ("--data", file, "--data-weight", weight)]
        script.notes.append("Each file is an objective; the weights start equal; for another mix train again.")
    trained = script.run("dpo", "--model", start, *data, *loss, stage="dpo", into="DPO")
    _measure(script, start, trained)


def _kto(script: Script, start: Word) -> None:
    files = (*script.facts.files.get("labels", ()), *script.facts.files.get("pairs", ()))
    trained = script.run("kto", "--model", start, *each("--data", files), stage="kto", into="KTO")
    _measure(script, start, trained)


def _ppo(script: Script, start: Word) -> None:
    _reinforce(script, start, "ppo")


def _rloo(script: Script, start: Word) -> None:
    _reinforce(script, start, "rloo", "--advantage", "rloo")


def _reinforce(script: Script, start: Word, stage: str, *more: str) -> None:
    facts = script.facts
    fit = facts.fits.get(stage)
    rm_stage = "train-rm-lora" if fit and fit.lora else "train-rm"
    rewards: list[Word] = []
    weighed: list[str] = []
    files = facts.files.get("pairs", ())
    if facts.rewards:
        rewards = [word for reward in facts.rewards for word in ("--reward", reward)]
        names = [reward.partition("=")[0] for reward in facts.rewards if NAME.fullmatch(reward.partition("=")[0])]
        weighed = names if len(facts.rewards) > 1 and len(names) == len(facts.rewards) else []
    elif facts.reward_models > 1:
        for name, file in zip(_objectives(files), files):
            script.run("train-rm", "--model", start, "--data", file, "--name", f"rm-{name}", stage=rm_stage)
            rewards += ["--reward", f"{name}=rm-{name}"]
            weighed.append(name)
    else:
        if not files:
            files = (_label(script, start, f"judge:{facts.judge}", "pairs"),)
        rm = script.run("train-rm", "--model", start, *each("--data", files), stage=rm_stage, into="RM")
        rewards = ["--reward", rm]
    weights = [word for name in weighed for word in ("--reward-weight", f"{name}={1 / len(weighed):.2g}")]
    if weighed:
        script.notes.append("The weights start equal: change them and run only ppo again.")
    trained = script.run(
        "ppo",
        "--model",
        start,
        *rewards,
        *weights,
        *each("--prompts", _prompts(facts)),
        *more,
        stage=stage,
        into="PPO",
    )
    script.notes.append(
        "Afterwards compare on held-out prompts: "
        f"prefcli eval --against {shown(start)} --model {shown(trained)} --prompts FILE."
    )


def _objectives(files: Sequence[str]) -> list[str]:
    """A name for each file that --reward takes: its own, where those tell the files apart."""
    stems = [re.sub(r"[^A-Za-z0-9_-]", "-", Path(file).name.partition(".")[0]) for file in files]
    fit = len(set(stems)) == len(stems) and all(stem[:1].isascii() and stem[:1].isalpha() for stem in stems)
    return stems if fit else [f"objective{number}" for number in range(1, len(files) + 1)]


def _rejection(script: Script, start: Word) -> None:
    best = _label(script, start, _labeller(script, start), "best")
    trained = script.run("sft", "--model", start, "--data", best, "--name", "rejection", stage="sft", into="BEST")
    _measure(script, start, trained)


def _rlaif(script: Script, start: Word) -> None:
    pairs = _label(script, start, _labeller(script, start), "pairs")
    trained = script.run("dpo", "--model", start, "--data", pairs, stage="dpo", into="DPO")
    _measure(script, start, trained)


def _iterative(script: Script, start: Word) -> None:
    labeller, policy = _labeller(script, start), start
    for number in ("1", "2"):
        pairs = _label(script, policy, labeller, "pairs", number)
        policy = script.run(
            "dpo", "--model", policy, "--reference", start, "--data", pairs, stage="dpo-rounds", into=f"POLICY{number}"
        )
    script.notes.append("Two rounds are shown; take new prompts for each further one, and keep --reference.")
    _measure(script, start, policy)


def _collect(script: Script, start: Word) -> None:
    by = script.facts.labeller
    pairs = _label(script, start, by, "pairs")
    script.run("dpo", "--model", start, "--data", pairs, stage="dpo", into="DPO")
    if by != "human":
        return
    script.notes.append("Two hundred labelled pairs are a beginning; the same label command resumes where it stopped.")
    script.notes.append(
        "A language model can label instead of you: --by judge:MODEL, or judge:https://HOST/v1#MODEL (docs/label.md)."
    )


def _labeller(script: Script, start: Word) -> Word:
    """Who labels new answers: a reward, a judge, or a reward model that the pairs train."""
    facts = script.facts
    if facts.scored:
        return facts.labeller
    pairs = facts.files.get("pairs", ())
    return script.run("train-rm", "--model", start, *each("--data", pairs), stage="train-rm", into="RM")


def _label(script: Script, model: Word, by: Word, to: str, number: str = "") -> str:
    """Lines that have the model answer the prompts and the answers labelled; the file of the result."""
    facts = script.facts
    answers, labelled = _free(facts, f"answers{number}"), _free(facts, f"labelled{number}")
    prompts = _prompts(facts)
    if not facts.prompted:
        script.notes.append('First write prompts.jsonl, one {"prompt": "…"} a line.')
    several = ("--num-generations", "2", "--temperature", "1") if by == "human" else ANSWERS
    script.run("sample", "--model", model, *each("--prompts", prompts), *several, "--out", answers, stage=ANSWERING)
    chosen = () if to == "pairs" else ("--to", to)
    trained = ANSWERING if isinstance(by, Variable) else None  # a reward model of the size of the model
    script.run("label", "--data", answers, "--by", by, *chosen, "--out", labelled, stage=trained)
    return labelled


def _measure(script: Script, start: Word, trained: Word) -> None:
    """Prompts that were not trained on show whether it helped; without any, a note says what to look for."""
    facts = script.facts
    held_out = () if _sampled(script) else facts.files.get("prompts", ())
    rewards = [word for reward in facts.rewards for word in ("--reward", reward)]
    if held_out:
        look = rewards or ["--samples", "5"]  # nothing scores the answers: a person reads some
        script.run("eval", "--against", start, "--model", trained, *each("--prompts", held_out), *look, stage=ANSWERING)
    else:
        script.notes.append(
            f"Afterwards evaluate it on held-out prompts: prefcli eval --model {shown(trained)} --prompts FILE."
        )


def _sampled(script: Script) -> bool:
    return any(" sample " in line for line in script.lines)


def _prompts(facts: Facts) -> tuple[str, ...]:
    """Files that prompts can be taken from: those without answers, else any that has prompts."""
    return _first(facts, "prompts", "pairs", "labels", "answered") or ("prompts.jsonl",)


def _first(facts: Facts, *kinds: str) -> tuple[str, ...]:
    return next((facts.files[kind] for kind in kinds if facts.files.get(kind)), ())


def _free(facts: Facts, name: str) -> str:
    """NAME.jsonl, or with a number where the user's own file is called that."""
    taken = {Path(file).name for files in facts.files.values() for file in files}
    return next(f"{name}{more}.jsonl" for more in ("", *map(str, range(2, 100))) if f"{name}{more}.jsonl" not in taken)


MAKERS: dict[str, Callable[[Script, Word], None]] = {
    "dpo": _dpo,
    "robust-dpo": _robust,
    "ipo": _ipo,
    "kto": _kto,
    "ppo": _ppo,
    "rloo": _rloo,
    "rejection": _rejection,
    "rlaif": _rlaif,
    "iterative-dpo": _iterative,
    "collect": _collect,
}
