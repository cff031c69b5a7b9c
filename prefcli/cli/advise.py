"""`prefcli advise`: which method fits the data, the hardware and the aims, why, and the commands."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from prefcli.advice.commands import commands
from prefcli.advice.decide import Decision, decide, reasons, why, would_change
from prefcli.advice.facts import METHODS, Facts
from prefcli.advice.situation import situation
from prefcli.cli.advise_questions import ask
from prefcli.cli.console import print_result, reporter, result_console
from prefcli.config.advise import AdviseConfig
from prefcli.errors import UsageError
from prefcli.memory.sizes import format_count

WIDEST = 100  # running text in longer lines is hard to read
ASIDE = ("runs", "config", "json", "debug", "map", "split")  # options that say nothing of the situation
LONGER = 0.6  # share of pairs, at the lower end of its interval, from which a length bias is spoken of


def run(config: AdviseConfig) -> None:
    """Print the advice to stdout (one JSON object with --json); at a terminal, ask where nothing was said."""
    if all(getattr(config, f.name) in (None, []) for f in fields(config) if f.name not in ASIDE):
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError(
                "no option describes your situation",
                "for example: prefcli advise --data pairs.jsonl --gpu H100; at a terminal it asks",
            )
        answers = ask(config)
        if answers is None:
            return
        config = answers
    facts = situation(config, reporter(False))
    decision = decide(facts)
    lines, notes = commands(decision.method, facts)
    if config.json:
        print_result(json.dumps(as_dict(facts, decision, lines, notes), ensure_ascii=False))
    else:
        _show(facts, decision, lines, notes)


def as_dict(facts: Facts, decision: Decision, lines: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """The object that --json prints. `facts` also has the points of every method, and why others are ruled out."""
    known = asdict(facts) | {"aims": sorted(facts.aims), "unclean": sorted(facts.unclean)}
    return {
        "recommendation": decision.method,
        "why": why(facts, decision),
        "runner_up": decision.runner_up,
        "would_change": would_change(facts, decision),
        "commands": list(lines),
        "facts": known | {"scores": decision.scores, "ruled_out": decision.ruled_out, "notes": list(notes)},
    }


class _Page:
    """Wrapped text on stdout; a first word in bold stands in the margin."""

    def __init__(self) -> None:
        self.console = result_console()
        self.width = min(self.console.width, WIDEST)

    def write(self, text: str, indent: int = 0, hanging: int | None = None, style: str | None = None) -> None:
        margin = " " * (indent if hanging is None else hanging)
        wrapped = textwrap.wrap(
            text, self.width, initial_indent=" " * indent, subsequent_indent=margin, break_on_hyphens=False,
            break_long_words=False,
        )  # fmt: skip
        self.console.print("\n".join(wrapped), style=style, soft_wrap=True, markup=False)

    def head(self, text: str) -> None:
        self.console.print()
        self.write(text, style="bold")

    def command(self, line: str) -> None:
        """A line for a shell, broken before options where it is too long."""
        self.console.print("\n".join(broken(line, self.width)), soft_wrap=True, markup=False, style="cyan")


def broken(line: str, width: int) -> list[str]:
    """A command in lines of about `width`, each but the last with a backslash at its end."""
    parts = re.split(r" (?=--)", line)
    shown = ["  " + parts[0]]
    for part in parts[1:]:
        if len(shown[-1]) + len(part) + 3 <= width:
            shown[-1] += " " + part
        else:
            shown[-1] += " \\"
            shown.append("      " + part)
    return shown


def _show(facts: Facts, decision: Decision, lines: Sequence[str], notes: Sequence[str]) -> None:
    page = _Page()
    page.write(f"You have  {_having(facts)}", hanging=10)
    page.write(f"Memory    {_fitting(facts)}", hanging=10)
    page.console.print()
    page.write(f"Take      {METHODS[decision.method].title}", hanging=10, style="bold")
    page.write(f"points    {_points(decision)}", hanging=10, style="dim")
    page.head("Why")
    for moved in reasons(facts, decision):
        page.write(f"{f'{moved.points:+d}' if moved.points else ' ·'}  {moved.text}", 2, 6)
        for evidence in moved.evidence:
            page.write(f"- {evidence.figure} ({evidence.source})", 6, 8, style="dim")
    if decision.ruled_out:
        page.head("Not possible")
        for reason in dict.fromkeys(decision.ruled_out.values()):
            if reason != "there is something to learn from already":
                names = ", ".join(name for name, said in decision.ruled_out.items() if said == reason)
                page.write(f"{names}: {reason}", 2, 6)
    if decision.runner_up:
        page.head("Next best")
        speaking = [rule for rule in decision.for_runner_up if rule.favours[decision.runner_up] > 0]
        said = "; ".join(rule.because.format(f=facts) for rule in speaking[:2])
        page.write(METHODS[decision.runner_up].title + (f": {said}" if said else ""), 2, 6)
    if changes := would_change(facts, decision):
        page.head("What would change it")
        for change in changes:
            page.write(f"if {change['if']} → {change['then']}", 2, 6)
    page.head("Run")
    for line in lines:
        page.command(line)
    for note in (*notes, *cautions(facts, decision)):
        page.write(f"- {note}", 2, 4)


def _having(facts: Facts) -> str:
    kinds = {"pairs": "pairs", "labels": "labelled answers", "demos": "demonstrations", "prompts": "prompts"}
    counts = {name: getattr(facts, kind) for kind, name in kinds.items()}
    parts = [f"{count:,} {name if count > 1 else name.removesuffix('s')}" for name, count in counts.items() if count]
    parts += [f"the reward {reward}" for reward in facts.rewards]
    parts += [f"the judge {facts.judge}"] if facts.judge else []
    size = f" ({format_count(facts.params)})" if facts.params else ""
    return f"{', '.join(parts) or 'no data'}; {facts.model or 'a model'}{size} on {facts.device}"


def _fitting(facts: Facts) -> str:
    """How DPO and PPO fit into the device, in the first way that fits."""
    if not facts.fits:
        return "not checked"
    shown = {name.upper(): facts.fit(name) for name in ("dpo", "ppo")}
    return "; ".join(f"{name} {fit.shown if fit else 'does not fit'}" for name, fit in shown.items())


def _points(decision: Decision) -> str:
    return ", ".join(
        f"{name} {points}" for name, points in decision.scores.items() if points or name == decision.method
    )


def cautions(facts: Facts, decision: Decision) -> list[str]:
    """Measurements of the data that support no method but that the user should know."""
    said = []
    if facts.longer_interval and facts.longer_chosen is not None and facts.longer_interval[0] > LONGER:
        stage = METHODS[decision.method].stage
        option = {"kto": None, "sft": None, "ppo": "--length-penalty", "rloo": "--length-penalty"}.get(
            stage, "--length-normalise"
        )
        against = f"; {option} works against it" if option else ""
        said.append(
            f"The longer answer is the chosen one in {facts.longer_chosen:.0%} of pairs: length may be what is learnt. "
            f"Watch it in eval{against}."
        )
    if facts.copies:
        said.append(f"{facts.copies:,} pairs are copies of others: they count twice, and hide contradictions.")
    if facts.ties:
        said.append(f"{facts.ties:,} rows are ties, which commands that learn preferences leave out.")
    if facts.same_sides:
        said.append(f"{facts.same_sides:,} pairs have the same text on both sides.")
    if facts.reward_right:
        share, low, high = facts.reward_right
        said.append(f"{facts.rewards[0]} prefers the chosen side in {share:.2f} [{low:.2f}, {high:.2f}] of pairs.")
    return said
