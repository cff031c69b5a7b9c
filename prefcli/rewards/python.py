"""A reward written in Python: `def score(prompts, completions, **columns) -> list[float]`."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefcli.errors import ArtifactError
from prefcli.models import four_bits
from prefcli.rewards.grammar import RewardSpec

Function = Callable[..., list[float]]


@functools.lru_cache
def load_function(spec: RewardSpec) -> Function:
    """The user's function, checked at every call: one finite number for each answer. A file is run once.

    Raises ArtifactError: the file does not run, has no such function, or the function fails.
    """
    assert spec.file is not None and spec.function is not None
    module_spec = importlib.util.spec_from_file_location(f"prefcli_reward_{spec.name}", spec.file)
    if module_spec is None or module_spec.loader is None:
        raise ArtifactError(f"{spec.file} is not a Python file", "the form is python:FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickling look their module up there
    try:
        with four_bits.visible():
            module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ArtifactError(
            f"{spec.file} does not run: {_where(error, spec.file)}", f"see for yourself: python {spec.file}"
        ) from error
    function = getattr(module, spec.function, None)
    if not callable(function):
        raise ArtifactError(
            f"{spec.file} has no function {spec.function!r}",
            f"there: {', '.join(n for n in vars(module) if callable(getattr(module, n))) or 'none'}",
        )

    def checked(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        try:
            with four_bits.visible():
                scores = [float(value) for value in function(prompts, completions, **columns)]
        except (Exception, SystemExit) as error:
            raise ArtifactError(
                f"reward {spec.text} failed: {_where(error, spec.file)}",
                "it is called as score(prompts, completions, **columns) with lists",
            ) from error
        if len(scores) != len(completions):
            raise ArtifactError(f"reward {spec.text} gave {len(scores)} scores for {len(completions)} answers")
        for score, completion in zip(scores, completions):
            if not math.isfinite(score):
                raise ArtifactError(f"reward {spec.text} gave {score} for the answer {completion[:80]!r}")
        return scores

    return checked


def _where(error: BaseException, file: Path | None) -> str:
    """The exception and the last line of the user's file on its way."""
    own = os.path.abspath(file or "")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    if isinstance(error, SyntaxError) and error.filename == own:
        return f"{type(error).__name__}: {error.msg} (line {error.lineno})"
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")
