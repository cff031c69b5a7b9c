"""Numbers that a page states, against the constants that decide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefcli.config.stages import BY_COMMAND
from prefcli.config.training import ADAPTER_RATE, SMALL_MODEL_PARAMETERS
from prefcli.watch import explosion, loss, mode_collapse, pairs, reward_hacking, sampling, stalling

DOCS = Path(__file__).parent.parent / "docs"


def table(page: str) -> list[list[str]]:
    """The cells of each line of a page's tables."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_learning_rates_of_the_page_are_those_of_the_stages():
    rows = table("adapters.md")
    first = rows.index(["stage", "all weights", "adapters", "below 20M parameters"]) + 2
    found = {
        command: [float(rate) for rate in rates]
        for names, *rates in rows[first : first + 5]
        for command in re.findall(r"`([\w-]+)`", names)
    }
    expected = {
        command: pytest.approx([stage.rates[0], stage.rates[0] * ADAPTER_RATE, stage.rates[1]])
        for command, stage in BY_COMMAND.items()
    }
    assert found == expected and SMALL_MODEL_PARAMETERS == 20 * 10**6


def percent(share: float) -> str:
    return f"{100 * share:g} %"


ONE_OVER = {1 / 2: "1/2", 1 / 3: "1/3", 1 / 4: "1/4", 1 / 5: "a fifth"}
HALF = {0.5: "½", 0.25: "¼"}

# Watcher → sign → what its row must say.
THRESHOLDS = {
    "explosion": {
        "ratio": [f"by more than {explosion.RATIO:g}"],
        "step size": [f"over {explosion.APPROX_KL:g}"],
        "clip fraction": [f"over {percent(explosion.CLIPPED)}", f"in {explosion.CLIPPED_FOR} rollouts"],
        "gradient": [f"over {explosion.TIMES:g} times", f"{explosion.HISTORY} rollouts",
                     f"{explosion.OUTLIER:g} standard"],
        "policy loss": [f"{explosion.OUTLIER:g} standard", f"{explosion.HISTORY} rollouts"],
        "negative KL": [f"of {explosion.KL_WINDOW} rollouts", f"{explosion.NEGATIVE:g} standard errors",
                        f"{explosion.NEGATIVE_LEAST:g} nats"],
        "KL runs away": [f"over {explosion.RUNAWAY:g} nats", f"within {explosion.RUNAWAY_IN} rollouts"],
        "value loss": [f"{explosion.VALUE_GROWTH:g} times its start"],
    },
    "reward hacking": {
        "agreement": [f"fell by {reward_hacking.DISAGREE:g}", f"{reward_hacking.FALL:g} standard errors"],
        "phrase spreads, phrase": [
            f"run of {reward_hacking.PHRASE_WORDS} words", f"over {ONE_OVER[reward_hacking.PHRASE_SPREADS]}",
            f"over {ONE_OVER[reward_hacking.PHRASE_RULES]}", f"up by {ONE_OVER[reward_hacking.PHRASE_GAIN]}",
        ],
        "length": [f"{reward_hacking.LONGER:g} times as long"],
        "KL budget": [f"of {reward_hacking.KL_WINDOW} rollouts", f"({reward_hacking.KL_BUDGET:g} nats)"],
    },
    "mode collapse": {
        "distinct-2": [f"below {percent(mode_collapse.DISTINCT_LEFT)}"],
        "entropy": [f"below {ONE_OVER[mode_collapse.ENTROPY_LEFT]}"],
        "same answer": [f"up by {ONE_OVER[mode_collapse.SAME_GAIN]}"],
    },
    "stalling": {
        "plateau, never rose": [f"{stalling.PLATEAU // 2} rollouts against the {stalling.PLATEAU // 2} before",
                                f"under {stalling.SMALL_EFFECT:g} standard deviations"],
        "too slow": [f"after {stalling.STILL_AFTER} rollouts", f"under {stalling.STILL_KL:g} nats",
                     f"under {percent(stalling.STILL_CLIPPED)}"],
        "scores alike": [f"under {percent(stalling.ALIKE)}", f"{stalling.ALIKE_FOR} rollouts long"],
    },
    "sampling drift": {
        "kl": [f"of {sampling.WINDOW} rollouts", f"over {sampling.KL:g} nats"],
        "ratio": [f"of {sampling.WINDOW} rollouts", f"by more than {sampling.RATIO_OFF:g}"],
    },
    "pairs": {
        "displacement begins, displacement": [f"{percent(pairs.BEGINS)}, {percent(pairs.RULES)}"],
        "reference": [f"{HALF[pairs.OTHER]} nat ({percent(pairs.OTHER_SHARE)})"],
        "too easy": [f"over {percent(pairs.EASY)}", f"{pairs.EASY_PAIRS} pairs"],
        "guessing": [f"{pairs.GUESS_PAIRS} pairs"],
        "too slow": [f"over {pairs.STILL_FOR} steps", f"{pairs.STILL:g} nats"],
    },
    "loss": {
        "rises": [f"of {loss.RECENT} steps ({loss.RECENT_ROWS} rows at least)", f"{loss.NOISE:g} standard errors",
                  f"over {loss.RISE:g} times the first {loss.START} ({loss.START_ROWS} rows at least)"],
        "zero": [f"first {loss.START} steps ({loss.START_ROWS} rows at least)"],
        "saturated": [f"over {loss.SATURATED_FOR} steps", f"under {percent(loss.SATURATED_LOSS)}",
                      f"{percent(loss.SATURATED_RIGHT)} right"],
        "held-out": [f"{loss.HELD_OUT:g} times its best"],
    },
}  # fmt: skip


def test_the_thresholds_of_the_page_are_those_of_the_watchers():
    found: dict[str, dict[str, str]] = {}
    for sign, seen, *_ in table("watchers.md"):
        if name := re.fullmatch(r"\*\*(.+)\*\*", sign):
            signs = found.setdefault(name[1], {})
        elif found:
            signs.setdefault(sign, seen)
    missing = [
        f"{watcher}, {sign}: {fragment}"
        for watcher, rows in THRESHOLDS.items()
        for sign, fragments in rows.items()
        for fragment in fragments
        if fragment not in found[watcher].get(sign, "")
    ]
    assert not missing
    text = " ".join((DOCS / "watchers.md").read_text(encoding="utf-8").split())
    for of in (reward_hacking, mode_collapse):
        assert f'mean of the first {of.START} rollouts, "now" that of the last {of.WINDOW}' in text
