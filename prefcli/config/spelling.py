"""From names that users type, or bring in a file, to options of ours, by the table in names.py.

Values of some names depend on each other (the rows of a process × accumulation): `Brought.settle` takes them together.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args, get_origin

from prefcli.config.base import option
from prefcli.config.names import ALIASES, BOOLEAN, NAMES, STAGES, Named
from prefcli.errors import UsageError

HELP = ("help", "help-all")
PER_PROCESS = {"per-device-train-batch-size", "micro-batch-size"}
OFF = ("", "false", "no", "none", "null", "0", "off", "disabled")  # of what is asked for with any other value
# What holds there where a file does not say it, and something else here.
THEIR_DEFAULTS = {"epochs": "3", "warmup": "0", "batch_size": "8 per process"}
HF_BATCH = "8"  # of TrainingArguments, where only the accumulation is said
TRL_LORA = {"lora_rank": "16", "lora_alpha": "32"}  # of TRL's ModelConfig, with use_peft
FACTORY_LORA = {"lora_rank": "8"}  # of LLaMA-Factory's, with finetuning_type: lora
_PATTERNS = [name for name in NAMES if "*" in name]
HARMLESS = ("eval-every", "eval-data", "save-every", "name")  # of a command that has no such option
# Of a command that has not the option which these name elsewhere (ppo).
INSTEAD = {"cutoff-len": "max_prompt_length", "data": "prompts"}
INSTEAD |= {name: "prompts" for name, ours in ALIASES.items() if ours == "data"}


def canonical(name: str, known: Mapping[str, Any]) -> str | None:
    """The field that a spelling (kebab or snake, ours or another word for it) names, or None.

    `--data` names the prompts where a command has prompts and no data (ppo).
    """
    kebab = name.replace("_", "-")
    for field_name in (kebab, ALIASES.get(kebab, ""), INSTEAD.get(kebab, "")):
        if field_name.replace("-", "_") in known:
            return field_name.replace("-", "_")
    return None


def named(name: str) -> Named | None:
    """The entry of a name that is more, or less, than another word for an option of ours."""
    kebab = name.replace("_", "-")
    found = NAMES.get(kebab) or next((NAMES[one] for one in _PATTERNS if fnmatchcase(kebab, one)), None)
    return found if found is not None and (found.values or found.said or found.jointly) else None


def hint(name: str, known: Mapping[str, Any], otherwise: str, *, bare: bool = False) -> str:
    """The hint for an unknown name: the nearest of our names and of their words for ours."""
    near = get_close_matches(name.replace("_", "-"), [*(one.replace("_", "-") for one in known), *NAMES], n=1)
    field_name = canonical(near[0], known) if near else None
    if field_name:
        return f"did you mean {option(field_name)[2:] if bare else option(field_name)}?"
    entry = named(near[0]) if near else None
    return f"{option(near[0])} has no counterpart: {entry.said}" if entry and entry.said else otherwise


def belonging(given: str, words: list[str], known: Mapping[str, Any]) -> int:
    """The number of words after an option that are its value."""
    if given[:3] in ("no-", "no_") and canonical(given, known) is None:
        return 0
    field_name, entry = canonical(given, known), named(given)
    kind = known[field_name][0] if field_name else None
    if _is_switch(kind) or (entry is not None and entry.switch):
        positional = any(opt.positional for _, opt in known.values())
        return int(bool(words) and words[0].lower() in BOOLEAN and not positional)
    if entry and not field_name or given.replace("_", "-") in ALIASES and _is_list((kind, None)):  # one, or several
        return next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    return min(1, len(words))


@dataclass
class Brought:
    """Settings from the line or a file in their names that are not plainly other words for ours."""

    fields: dict[str, Any] = field(default_factory=dict)  # ours → value; an option under its own name stands above
    jointly: dict[str, str] = field(default_factory=dict)  # theirs → value, see settle
    refused: list[tuple[str, str]] = field(default_factory=list)  # as typed → why it cannot be left out
    noted: list[tuple[str, str]] = field(default_factory=list)  # as typed → why it is not used
    theirs: bool = False  # whether a file has any name of theirs
    places: dict[str, str] = field(default_factory=dict)  # ours → where a file says it

    def takes(self, typed: str, values: list[str], known: Mapping[str, Any]) -> bool:
        """Whether a name is one of theirs in this sense, and, if so, take it in with its values."""
        name, entry, text = typed.replace("_", "-"), named(typed), ",".join(values)
        own, other = name.replace("-", "_") in known, ALIASES.get(name)
        if entry is None and other is not None and canonical(name, known) is None:
            entry = Named(said=f"there is no {option(other)} here", decides=other not in HARMLESS)
        if entry is None or (own and (entry.jointly or text not in entry.values)):
            return False
        if entry.jointly and not entry.ours and "lr" not in known:  # of commands that train
            return False
        found = entry.values.get(text.lower() if entry.switch else text)
        field_name = canonical(typed, known) if entry.ours else None
        if found is None and entry.ours and field_name is None:
            self.refused.append((typed, f"there is no {option(entry.ours)} here"))
        elif found and not found.keys() <= known.keys():
            self.refused.append((f"{typed} {text}", entry.said))
        elif found:
            self.fields |= {ours: [value] if _is_list(known[ours]) else value for ours, value in found.items()}
        elif entry.jointly and (found is not None or not entry.values):
            text = text.lower() if entry.switch else text
            self.jointly[name] = f"{self.jointly[name]},{text}" if name == "dataset" and name in self.jointly else text
        elif found is None and field_name is not None:
            parts = [part.strip() for value in values for part in value.split(",")]
            several = _is_list(known[field_name])
            self.fields[field_name] = [*self.fields.get(field_name, []), *parts] if several else text
        elif found is None and entry.decides and not _off(entry, values):
            self.refused.append((f"{typed} {text}".strip() if entry.values else typed, entry.said))
        elif found is None:
            self.noted.append((typed, entry.said))
        return True

    def settle(self, given: Mapping[str, Any], command: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ours that the names in `jointly` say together; `given` are those that were said themselves.

        per_device_train_batch_size × gradient_accumulation_steps × processes is our --batch-size.
        Raises UsageError: options of another stage, WORLD_SIZE is not a number, warm-up in steps.
        """
        said, found = self.jointly, dict[str, Any]()
        wanted = "orpo" if said.get("pref-loss") == "orpo" else STAGES.get(said.get("stage", ""), command)
        if wanted != command:
            raise UsageError(f"these are options of {wanted}, not of {command}", f"prefcli {wanted} --config FILE")
        rows = said.get("per-device-train-batch-size") or said.get("micro-batch-size")
        parts = said.get("gradient-accumulation-steps")
        if "grad_accum" not in known:  # rows at a time, or mem-estimate, which has --gpus
            found |= {"batch_size": _times(rows, str(given.get("gpus") or "1"))} if rows else {}
        elif (rows or (parts and _is_count(parts))) and "batch_size" not in given:
            found["batch_size"] = times_processes(_times(rows or HF_BATCH, parts or "1"))
        found |= {"grad_accum": parts} if parts else {}
        if said.get("use-peft") == "false" or said.get("finetuning-type") == "full":
            found["lora_rank"] = "0"
        folder = Path(said.get("dataset-dir", "data"))
        if "dataset" in said:
            files = [_file(name.strip(), folder) for name in said["dataset"].split(",")]
            found[canonical("data", known) or "data"] = files
        if "max-samples" in said:
            if "," in said.get("dataset", ""):
                raise UsageError(
                    "max_samples is of each data set there, and --max-rows of all together", "leave it out, or name one"
                )
            found["max_rows"] = said["max-samples"]
        if "eval-dataset" in said:
            found["eval_data"] = _file(said["eval-dataset"], folder)
        if "adapter-name-or-path" in said:
            found["model"] = said["adapter-name-or-path"]
        if "warmup-steps" in said:
            found["warmup"] = _fraction(said["warmup-steps"], given.get("max_steps"))
        return {name: value for name, value in found.items() if name in known}

    def told(self, given: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
        """The keys of a file that are not used and why, a line per reason; and the defaults that differ from theirs."""
        reasons: dict[str, list[str]] = {}
        for typed, why in self.noted:
            reasons.setdefault(why, []).append(typed)
        lines = [f"  {', '.join(names)}: {why}" for why, names in reasons.items()]
        left = [f"{option(name)} {ours[name]} ({there} there)" for name, there in THEIR_DEFAULTS.items()
                if self.theirs and ours.get(name) is not None and name not in given]  # fmt: skip
        lines += [f"  not in the file, so as usual here: {', '.join(left)}"] if left else []
        return "\n".join(lines)

    def lora_defaults(self) -> Mapping[str, str]:
        """Of a LoRA adapter that is asked for without its rank, as they are there."""
        if self.jointly.get("use-peft") == "true":
            return TRL_LORA
        return FACTORY_LORA if self.jointly.get("finetuning-type") == "lora" else {}


def _is_switch(kind: Any) -> bool:
    return kind is bool or bool in get_args(kind)  # or None


def _is_list(typed: Any) -> bool:
    return get_origin(typed[0]) is list


def _off(entry: Named, values: Sequence[str]) -> bool:
    """Whether the value asks for nothing, or for what is done anyway."""
    nothing = entry.off or OFF
    return all(value.lower() in nothing or _number(value) in map(_number, nothing) for value in values)


def _number(text: str) -> float | str:
    """To compare values by: 1.0 is 1."""
    try:
        return float(text)
    except ValueError:
        return text


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _times(*factors: str) -> str:
    """The product; the first that is not a number instead, which is refused where types are checked."""
    wrong = [one for one in factors if not _is_count(one)]
    return wrong[0] if wrong else str(math.prod(map(int, factors)))


def times_processes(value: str) -> str:
    """A batch of one process as that of all; what is not a number stays.

    Raises UsageError for a WORLD_SIZE that is not a number.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if not (processes.isascii() and processes.isdecimal()):
        raise UsageError(f"WORLD_SIZE must be a whole number of processes, not {processes!r}")
    return _times(value, processes)


def _fraction(steps: str, of: Any) -> str:
    """warmup_steps as a fraction, which below 1 it is (transformers 5). Raises UsageError: of an unknown number."""
    number, total = _number(steps), _number(str(of))
    if not isinstance(number, float) or number < 1:
        return steps
    if not isinstance(total, float) or total < 1:
        raise UsageError(f"warmup_steps {steps}: --warmup is a fraction of the steps", "for example: --warmup 0.1")
    return str(min(1.0, number / total))


def _file(name: str, folder: Path) -> str:
    """The file or hub id that LLaMA-Factory's dataset_info.json gives for a name; the name itself where it does not."""
    try:
        entry = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))[name]
        return str(folder / entry["file_name"]) if "file_name" in entry else str(entry.get("hf_hub_url", name))
    except (OSError, ValueError, KeyError, TypeError):
        return name


def spell_out(args: list[str], known: dict[str, Any]) -> tuple[list[str], Brought]:
    """Command-line words with every option in our own spelling (`--model_name_or_path` → `--model`), and what those say
    that are not another word for one. Raises UsageError: options that are not there, all of them."""
    spelt: list[str] = []
    brought, at = Brought(), 0
    while at < len(args):
        arg, at = args[at], at + 1
        if arg == "--":
            spelt += args[at - 1 :]
            break
        given, equals, value = arg[2:].partition("=")
        if not arg.startswith("--") or given in HELP:
            spelt.append(arg)
            continue
        negative = given[:3] in ("no-", "no_") and canonical(given, known) is None
        values = [value] if equals else args[at : at + belonging(given, args[at:], known)]
        field = canonical(given[3:] if negative else given, known)
        if brought.takes(given[3:] if negative else given, ["false"] if negative else values or ["true"], known):
            pass
        elif field is None:
            raise UsageError(f"no such option: --{given}", hint(given, known, "see --help for the names"))
        elif _is_switch(known[field][0]) and (not equals or value.lower() in BOOLEAN):
            off = negative or [one.lower() for one in values] == ["false"]
            spelt.append(option(f"no_{field}" if off else field))
        elif equals:
            spelt.append(f"{option(field)}={value}")
        else:
            spelt += [word for one in values for word in (option(field), one)] or [option(field)]
        at += 0 if equals else len(values)
    if brought.refused or brought.noted:
        missing = brought.refused + brought.noted
        names = ", ".join(f"--{typed}" for typed, _ in missing)
        said = [f"--{typed}: {said}" for typed, said in missing] if len(missing) > 1 else [missing[0][1]]
        raise UsageError(f"no such option{'s' if len(missing) > 1 else ''} here: {names}", "\n      ".join(said))
    return spelt, brought
