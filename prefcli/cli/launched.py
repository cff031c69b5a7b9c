"""Several processes of one command: those of a launcher work together, those that know nothing of each other do not."""

from __future__ import annotations

import os

from prefcli.config.stages import BY_COMMAND
from prefcli.errors import UsageError

TOGETHER = frozenset(BY_COMMAND) | {"sample", "score", "label", "eval"}  # divide their work
ALONE = {"sweep", "compare", "frontier", "report", "export", "chat", "ui", "serve-rm"}  # each would do all
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # by which a process knows the others
SRUN = "SLURM_STEP_NUM_TASKS"  # which srun alone sets: a batch script that runs once has it not


def refuse_odd_launch(command: str) -> None:
    """Raise UsageError where several processes of a command would each do all of its work, or halves that do not meet.

    It is `accelerate launch` or torchrun that starts several.
    """
    if command in ALONE:
        _refuse_several(command)
    if command not in TOGETHER:
        return
    right = "accelerate launch -m prefcli … starts several (docs/scaling.md)"
    said = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    several = _number("WORLD_SIZE", said.get("WORLD_SIZE", "1"), right) > 1 or said.get("RANK", "0") != "0"
    if several and len(said) < len(VARIABLES):
        missing = [name for name in VARIABLES if name not in said]
        raise UsageError(
            f"{_in_words(said)} without {' and '.join(missing)}: the processes would not find each other",
            f"torchrun sets all of them: {right}; for a single process unset {' '.join(said)}",
        )
    tasks = os.environ.get(SRUN, "1")
    if "WORLD_SIZE" not in said and tasks.isdecimal() and int(tasks) > 1:
        raise UsageError(
            f"srun started {command} {tasks} times ({SRUN}={tasks}), and each would do all of its work",
            f"srun -n 1 for each machine, and in it {right}; if they are to be separate, unset {SRUN}",
        )


def _refuse_several(command: str) -> None:
    for name in ("WORLD_SIZE", SRUN):
        if os.environ.get(name) == "":  # says nothing, and torch and accelerate would take it for a number
            del os.environ[name]
        if (started := _number(name, os.environ.get(name, "1"), f"unset {name}")) > 1:
            raise UsageError(
                f"{command} runs in a single process, but {name}={started} says that {started} were started",
                f"start it once; if it is the only one, unset {name}",
            )


def _number(name: str, said: str, remedy: str) -> int:
    if not (said.isascii() and said.isdecimal() and int(said)):
        raise UsageError(f"{name} must be a whole number of processes, not {said!r}", remedy)
    return int(said)


def _in_words(said: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in said.items())
