"""The situation, asked for at the terminal one question at a time: Enter takes the default, q leaves."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefcli.advice.data import Kind, measure
from prefcli.advice.situation import aims_of, judge_of
from prefcli.artifacts.references import default_model, resolve
from prefcli.artifacts.store import Store
from prefcli.config.advise import AIMS, AdviseConfig
from prefcli.errors import PrefcliError, UsageError
from prefcli.memory.devices import device
from prefcli.memory.sizes import parse_count
from prefcli.rewards.grammar import parse_rewards

Answers = Callable[[], str]  # the next line that is typed; "" at the end of the input, else with its newline


class _Left(Exception):
    """The person typed q, or the input ended."""


def ask(config: AdviseConfig, answers: Answers | None = None) -> AdviseConfig | None:
    """The configuration that the answers make, or None where the person left. A wrong answer is asked for again."""
    read = answers or sys.stdin.readline
    store = Store(config.runs)
    _say("Enter takes the value in brackets, q quits.")
    try:
        data = _ask(read, "Files with pairs, labelled answers or demonstrations", "none", _files(config))
        prompts = _ask(read, "Files with prompts only", "none", _files(config, "prompts"))
        reward = _ask(
            read, "What scores answers: a reward model, python:FILE:FUNCTION or URL", "nothing", _reward(store)
        )
        judge = _ask(read, "A language model that can judge answers", "none", _judge)
        model = _ask(read, "The model to be trained, or a size such as 7B", default_model(store)[0], _model(store))
        kind = _ask(read, "Kind of GPU, or cpu", device(None, None).shown, _gpu)
        count = _ask(read, "How many of them", "1", _count) if kind and device(kind, None).count else None
        for number, (name, said) in enumerate(AIMS.items(), 1):
            _say(f"  {number}  {said} ({name})")
        aim = _ask(read, "Your aims, e.g. 3 5", "just a better model", _aims)
    except _Left:
        return None
    _say("")
    chosen: dict[str, Any] = {"data": data, "prompts": prompts, "reward": reward, "judge": judge}
    return replace(config, **chosen, **(model or {}), gpu=kind, gpus=count, aim=aim or [])


def _ask(read: Answers, question: str, default: str, check: Callable[[str], Any]) -> Any:
    """The answer, as `check` converts it, which is "" where the default is taken."""
    while True:
        print(f"{question} [{default}]: ", end="", file=sys.stderr, flush=True)
        line = read()
        if not line or line.strip().lower() == "q":
            _say("" if line else "\n")
            raise _Left
        try:
            return check(line.strip())
        except PrefcliError as error:
            _say(f"  {error.message}" + (f" ({error.hint})" if error.hint else ""))


def _files(config: AdviseConfig, kind: Kind | None = None) -> Callable[[str], list[str]]:
    def check(line: str) -> list[str]:
        files = _words(line)
        for file in files:
            measure(file, kind, split=config.split, names=config.map, beside=True)
        return files

    return check


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"a quote is not closed: {line}") from error


def _reward(store: Store) -> Callable[[str], list[str]]:
    def check(line: str) -> list[str]:
        rewards = _words(line)
        parse_rewards(rewards, store)
        return rewards

    return check


def _judge(line: str) -> str | None:
    return judge_of(line) if line else None


def _model(store: Store) -> Callable[[str], dict[str, str]]:
    def check(line: str) -> dict[str, str]:
        try:
            parse_count(line)
        except UsageError:
            if line:
                resolve(line, store)
            return {"model": line} if line else {}
        return {"params": line}

    return check


def _gpu(line: str) -> str | None:
    if line:
        device(line, None)
    return line or None


def _count(line: str) -> int | None:
    if line and not (line.isascii() and line.isdecimal() and int(line) > 0):
        raise UsageError(f"{line}: not a number of GPUs")
    return int(line) if line else None


def _aims(line: str) -> list[str]:
    names = list(AIMS)
    words = line.replace(",", " ").split()
    picked = [names[int(w) - 1] if w.isascii() and w.isdecimal() and 0 < int(w) <= len(names) else w for w in words]
    aims_of(picked)
    return picked


def _say(text: str) -> None:
    print(text, file=sys.stderr)
