"""A reward written in Python: `def score(prompts, completions, **columns) -> list[float]`, called as TRL calls it."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from prefcli.data.row import Row
from prefcli.errors import ArtifactError
from prefcli.rewards.grammar import LARGEST_SCORE, SCORE_FORM, RewardSpec
from prefcli.rewards.home import Home

Function = Callable[..., list[float]]
TRIAL = ("I do not know.", "Yes, of course.")  # answers that a function is tried on before anything is loaded


@functools.lru_cache
def load_function(spec: RewardSpec) -> Function:
    """The user's function, checked at every call: one finite number for each answer. A file is run once.

    It is called by name (`prompts=`, `completions=` and the columns), or, where it has other names for the first two,
    by position.
    Raises ArtifactError: the file does not run, has no such function, or the function fails.
    """
    assert spec.file is not None and spec.function is not None
    home = Home(spec.file)
    function = _function(spec, home)

    def checked(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        given = {name: list(values) for name, values in columns.items()}  # it may empty what it is handed
        lists = list(prompts), list(completions)
        try:
            with home.entered():
                named = {"prompts": lists[0], "completions": lists[1]} | given
                if not _binds(function, **named) and _by_position(function) and _binds(function, *lists, **given):
                    scores = _numbers(function(*lists, **given))
                else:
                    scores = _numbers(function(**named))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ArtifactError(
                f"reward {spec.text} failed: {_where(error, spec.file)}",
                "it is called as score(prompts=…, completions=…, **columns) with lists, and gives a list of numbers",
            ) from error
        if len(scores) != len(completions):
            raise ArtifactError(f"reward {spec.text} gave {len(scores)} scores for {len(completions)} answers")
        for score, completion in zip(scores, completions):
            if not abs(score) <= LARGEST_SCORE:  # NaN too
                raise ArtifactError(f"reward {spec.text} gave {score} for the answer {completion[:80]!r}", SCORE_FORM)
        return scores

    return checked


def try_functions(specs: Sequence[RewardSpec], row: Row) -> None:
    """Have each Python source score two answers to the row's prompt: a mistake in it costs a second here, and a model
    load later. Raises ArtifactError as `load_function` does."""
    for spec in specs:
        if spec.function is not None:
            columns = columns_of([row.columns] * len(TRIAL))
            load_function(spec)([row.prompt_text] * len(TRIAL), list(TRIAL), **columns)


def columns_of(rows: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    """The rows' other columns as a function is handed them; None where a row lacks one."""
    names = {name for row in rows for name in row or {}} - {"prompts", "completions"}
    return {name: [(row or {}).get(name) for row in rows] for name in names}


def _function(spec: RewardSpec, home: Home) -> Callable[..., Any]:
    """Raises ArtifactError: the file does not run, or has no such function."""
    module_spec = importlib.util.spec_from_file_location(f"prefcli_reward_{spec.name}", str(spec.file))
    if module_spec is None or module_spec.loader is None:
        raise ArtifactError(f"{spec.file} is not a Python file", "write python:FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickling look their module up there
    try:
        with home.entered():
            module_spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ArtifactError(
            f"{spec.file} does not run: {_where(error, spec.file)}", f"see for yourself: python {spec.file}"
        ) from error
    function: Any = getattr(module, str(spec.function), None)
    if not callable(function):
        raise ArtifactError(
            f"{spec.file} has no function {spec.function!r}",
            f"there: {', '.join(n for n in vars(module) if callable(getattr(module, n))) or 'none'}",
        )
    return function


def _numbers(found: Any) -> list[float]:
    """A function's result as floats, awaited where it is async. Raises TypeError for None, for text, and for what has
    no order."""
    if inspect.iscoroutine(found):
        found = asyncio.run(found)
    if found is None:
        raise TypeError("it gave None, not a list of numbers")
    if isinstance(found, (str, bytes, Mapping, Set)):
        raise TypeError(f"it gave a {type(found).__name__}, not a list of numbers")
    values = list(found)
    for value in values:
        if value is None:
            raise TypeError(
                "it gave None for an answer, by which TRL leaves the function out of that answer's reward; "
                "here each answer needs a score: return 0.0 instead"
            )
        if isinstance(value, (str, bytes)):
            raise TypeError(f"a score is a number, and it gave {value!r}")
    return [float(value) for value in values]


def _by_position(function: Callable[..., Any]) -> bool:
    """Whether prompts and answers may be handed over as first and second: not where one of these names stands at
    another place, and the prompts would be scored."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return all(name not in names or names.index(name) == place for place, name in enumerate(("prompts", "completions")))


def _binds(call: Callable[..., Any], /, *lists: Any, **named: Any) -> bool:
    try:
        inspect.signature(call).bind(*lists, **named)
    except (TypeError, ValueError):  # ValueError: one that is not written in Python shows no signature
        return False
    return True


def _where(error: BaseException, file: Path | None) -> str:
    """The exception and the last line of the user's file on its way."""
    own = os.path.abspath(file or "")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    if isinstance(error, SyntaxError) and error.filename == own:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")
