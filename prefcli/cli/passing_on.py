"""A command whose words are partly another's: `prefcli sweep dpo --seeds 3 --beta 0.1`.

After STAGE an option that is none of the command's own is one of the stage. Which ones there are, and what they take,
is read from the stage's dataclass, so that a mistyped name is answered with the nearest of both.
"""

from __future__ import annotations

from typing import Any

from prefcli.config.base import is_switch, nearest, option, typed_options
from prefcli.config.names import BOOLEAN, COMMANDS
from prefcli.config.spelling import belonging, canonical, hint, named, of_file
from prefcli.config.stages import BY_COMMAND, STAGES, Stage
from prefcli.errors import UsageError

POSITIONAL = ("stage", "options")


def stage_of(text: str) -> Stage:
    """The stage that a user names, by its command or as manifests do. Raises UsageError with the nearest name."""
    text = text.replace("_", "-")
    found = BY_COMMAND.get(text) or STAGES.get(text)
    if found is None:
        near = nearest(text.lower(), BY_COMMAND)
        otherwise = f"did you mean {near}?" if near else f"there are: {', '.join(BY_COMMAND)}"
        raise UsageError(f"no such stage: {text}", COMMANDS.get(text.lower(), otherwise))
    return found


def split(args: list[str], own: dict[str, Any]) -> list[str]:
    """The words as the command's own options, then `--`, STAGE and the words of the stage, each still as it was typed.

    Raises UsageError: an option of neither, one of the stage before STAGE, a stage that does not exist.
    """
    mine: list[str] = []
    theirs: list[str] = []
    stage: Stage | None = None
    words = list(args)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help", "--help-all"):
            return [word]
        if not word.startswith("-") or len(word) < 2:
            if stage is not None:
                taker = of_file(word, typed_options(stage.config))
                otherwise = "options of the stage begin with --"
                raise UsageError(
                    f"unexpected argument {word!r} (no option before it)", f"{taker} {word}" if taker else otherwise
                )
            stage = stage_of(word)
            continue
        known = typed_options(stage.config) if stage else {}
        given, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--"):  # -q
            mine.append(word)
            continue
        field: str | None = given.replace("-", "_")  # under its own name alone: --data is an alias, of the stage's
        if field in own and field not in POSITIONAL:
            switch = is_switch(own[field][0])
            to, takes = mine, int(not switch)
            if switch and not equals and words and words[0].lower() in BOOLEAN:
                value = words.pop(0)
            said = value.lower() if switch and value.lower() in BOOLEAN else None
            word = option(f"no_{field}" if said == "false" else field) + ("" if said else equals + value)
        elif _positive(given, known) is not None or (stage is not None and named(given) is not None):
            to, takes = theirs, belonging(given, words, known)
        else:
            raise UsageError(f"no such option: {word.partition('=')[0]}", _hint(given, own, known, stage))
        taken = 0 if equals else takes
        to += [word, *words[:taken]]
        del words[:taken]
    return [*mine, "--", *([BY_COMMAND[stage.command].command] if stage else []), *theirs]


def _positive(given: str, known: dict[str, Any]) -> str | None:
    """The field that an option, or its `--no-` form, names."""
    found = canonical(given, known)
    return found or (canonical(given[3:], known) if given[:3] in ("no-", "no_") else None)


def _hint(given: str, own: dict[str, Any], known: dict[str, Any], stage: Stage | None) -> str:
    if stage is None:
        every = {name: None for other in STAGES.values() for name in typed_options(other.config)}
        if _positive(given, every) is not None:
            return "options of the stage go after its name: prefcli sweep dpo --beta 0.1"
    return hint(given, {**own, **known}, f"see prefcli {stage.command if stage else 'sweep'} --help")


def parse(stage: Stage, words: list[str], command_of: Any) -> Any:
    """The stage's config from the words of a command line, `--config` included; checked as the stage's own are.

    Raises UsageError.
    """
    found: list[Any] = []
    command = command_of(stage.command, stage.config, found.append)
    try:
        with command.make_context(f"prefcli {stage.command}", list(words)) as context:
            command.invoke(context)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of Typer's own
            raise
        raise UsageError(error.format_message(), f"see prefcli {stage.command} --help") from error
    return found[0]
