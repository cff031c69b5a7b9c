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
from typing import Any, get_origin

from prefcli.config.base import is_switch, option
from prefcli.config.dpo import LOSSES
from prefcli.config.names import ALIASES, BOOLEAN, NAMES, STAGES, Named
from prefcli.config.stages import BY_COMMAND
from prefcli.config.training import ADAPTER_RATE
from prefcli.errors import UsageError

HELP = ("help", "help-all")
PER_PROCESS = {"per-device-train-batch-size", "micro-batch-size"}
OFF = ("", "false", "no", "none", "null", "0", "off", "disabled")  # of what is asked for with any other value
# What holds there where a file does not say it: of TrainingArguments, of TRL's config of each stage (ppo: of its GRPO),
# of LLaMA-Factory.
THEIR_DEFAULTS = {"epochs": "3", "warmup": "0", "batch_size": "8 per process", "seed": "42", "lr_scheduler": "linear"}
TRL_LR = {"sft": "2e-05", "train-rm": "0.0001", "dpo": "1e-06", "orpo": "1e-06", "kto": "1e-06", "ppo": "1e-06"}
# Of a loss's own options, in TRL (simpo's in its CPOConfig) and LLaMA-Factory.
LOSS_DEFAULTS = {"beta": "0.1", "simpo_gamma": "0.5", "label_smoothing": "0"}
FACTORY_DEFAULTS = {"lr": "5e-05", "max_length": "2048"}
HF_BATCH = "8"  # of TrainingArguments, where only the accumulation is said
ADAPTER = ("lora_alpha", "lora_target", "lora_dropout", "adapter")  # options of ours about one, without its rank
TRL_LORA = {"lora_rank": "16", "lora_alpha": "32", "lora_dropout": "0.05"}  # of TRL's ModelConfig, with use_peft
FACTORY_LORA = {"lora_rank": "8"}  # of LLaMA-Factory's, with finetuning_type: lora
FACTORY = {"stage", "finetuning-type", "template", "dataset-dir", "adapter-name-or-path"}  # names that TRL has not
# Of dataset_info.json: a name in `columns` → the column that our formats read; values of `tags` that they know.
_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output", "messages": "conversations"} | {
    name: name for name in ("history", "system", "tools", "chosen", "rejected", "kto_tag")}  # fmt: skip
_TAGS = {
    "role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"), "system_tag": ("system",), "function_tag": ("function_call", "tool_call"),
    "observation_tag": ("observation", "tool", "tool_response"),
}  # fmt: skip
_PATTERNS = [name for name in NAMES if "*" in name]
NO_WARMUP = "lr_scheduler_type: constant does not read it, as in transformers; constant_with_warmup does"
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
    typed = name.replace("_", "-")
    near = get_close_matches(typed, [*(one.replace("_", "-") for one in known), *NAMES], n=1)
    field_name = canonical(near[0], known) if near else None
    if field_name:
        return f"did you mean {option(field_name)[2:] if bare else option(field_name)}?"
    # Of a command that does not train, and by a name that is not very near, such a hint would lead astray.
    entry = named(near[0]) if near and "lr" in known and get_close_matches(typed, near, cutoff=0.8) else None
    return f"{option(near[0])} has no counterpart: {entry.said}" if entry and entry.said else otherwise


def belonging(given: str, words: list[str], known: Mapping[str, Any]) -> int:
    """The number of words after an option that are its value."""
    if given[:3] in ("no-", "no_") and canonical(given, known) is None:
        return 0
    field_name, entry = canonical(given, known), named(given)
    kind = known[field_name][0] if field_name else None
    positional = any(opt.positional for _, opt in known.values())
    if is_switch(kind) or (entry is not None and entry.switch):
        return int(bool(words) and words[0].lower() in BOOLEAN and not positional)
    several = entry and not field_name or given.replace("_", "-") in ALIASES and _is_list((kind, None))
    if several and not positional:
        return next((at for at, word in enumerate(words) if _is_option(word)), len(words))
    return min(1, len(words))


@dataclass
class Brought:
    """Settings from the line or a file in their names that are not plainly other words for ours."""

    fields: dict[str, Any] = field(default_factory=dict)  # ours → value; an option under its own name stands above
    jointly: dict[str, str] = field(default_factory=dict)  # theirs → value, see settle
    refused: list[tuple[str, str]] = field(default_factory=list)  # as shown → why it cannot be left out
    noted: list[tuple[str, str]] = field(default_factory=list)  # as shown → why it is not used
    shown: dict[str, str] = field(default_factory=dict)  # theirs → `--name`, or `line 7: name` of a file
    places: dict[str, str] = field(default_factory=dict)  # ours → where a file says it
    translated: list[tuple[str, str, str]] = field(default_factory=list)  # ours, the value in `fields`, as shown

    @property
    def in_file(self) -> set[str]:
        """The names of theirs in a file."""
        return {name for name, shown in self.shown.items() if not shown.startswith("--")}

    def takes(self, typed: str, values: list[str], known: Mapping[str, Any], shown: str) -> bool:
        """Whether a name is one of theirs in this sense, and, if so, take it in with its values."""
        name, entry, text = typed.replace("_", "-"), named(typed), ",".join(values)
        own, other = name.replace("-", "_") in known, ALIASES.get(name)
        if entry is None and other is not None and canonical(name, known) is None:
            entry = Named(said=f"there is no {option(other)} here", decides=other not in HARMLESS)
        if entry is None or (own and (entry.jointly or text not in entry.values)):
            return False
        if entry.jointly and not entry.ours and "lr" not in known:  # of commands that train
            return False
        self.shown[name] = shown
        found = entry.values.get(text.lower() if entry.switch else text)
        field_name = canonical(typed, known) if entry.ours else None
        if found is None and entry.ours and field_name is None:
            self.refused.append((shown, f"there is no {option(entry.ours)} here"))
        elif found and not found.keys() <= known.keys():
            self.refused.append((f"{shown} {text}", entry.said))
        elif found:
            self.translated += [(ours, value, shown) for ours, value in found.items()]
            self.fields |= {ours: [value] if _is_list(known[ours]) else value for ours, value in found.items()}
        elif entry.jointly and (found is not None or not entry.values):
            text = text.lower() if entry.switch else text
            self.jointly[name] = f"{self.jointly[name]},{text}" if name == "dataset" and name in self.jointly else text
        elif found is None and field_name is not None:
            parts = [part.strip() for value in values for part in value.split(",")]
            several = _is_list(known[field_name])
            self.fields[field_name] = [*self.fields.get(field_name, []), *parts] if several else text
        elif found is None and entry.decides and not _off(entry, values):
            self.refused.append((f"{shown} {text}".strip() if entry.values else shown, entry.said))
        elif found is None:
            self.noted.append((shown, entry.said))
        return True

    def settle(self, given: Mapping[str, Any], command: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """The options of ours that the names in `jointly` say together; `given` are those that were said themselves.

        per_device_train_batch_size × gradient_accumulation_steps × processes is our --batch-size. What cannot be is
        added to `refused`, and what is to be known to `noted`.
        Raises UsageError: options of another stage, WORLD_SIZE is not a number.
        """
        said, found = self.jointly, dict[str, Any]()
        wanted = "orpo" if said.get("pref-loss") == "orpo" else STAGES.get(said.get("stage", ""), command)
        if wanted != command:
            raise UsageError(f"these are options of {wanted}, not of {command}", f"prefcli {wanted} --config FILE")
        rows = said.get("per-device-train-batch-size") or said.get("micro-batch-size")
        parts = said.get("gradient-accumulation-steps")
        if "grad_accum" not in known:  # rows at a time, or mem-estimate, whose --shard is a number
            shards = str(given.get("shard", "1"))
            found |= {"batch_size": _times(rows, shards if shards.isdecimal() else "1")} if rows else {}
        elif (rows or parts) and _is_count(parts or "1") and "batch_size" not in given:
            found["batch_size"] = times_processes(_times(rows or HF_BATCH, parts or "1"))
        found |= {"grad_accum": parts} if parts else {}
        if said.get("use-peft") == "false" or said.get("finetuning-type") == "full":
            found["lora_rank"] = "0"
        elif (
            "lora-r" in self.in_file
            and "lora_rank" in self.places
            and not self.factory
            and "use-peft" not in said
            and "adapter" not in (*given, *self.shown)  # axolotl's use_peft
        ):
            found["lora_rank"] = "0"
            self.noted.append((self.shown["lora-r"], "without use_peft: true all weights are trained, as in TRL"))
        elif self.factory and "finetuning-type" not in said and "lora_rank" in known:
            self.noted.append(("finetuning_type", "LoRA by default, as in LLaMA-Factory"))
        if not _is_zero(given.get("lora_rank")):
            lora = {name: value for name, value in self._lora_defaults().items() if name not in given}
            if command == "ppo" and lora.pop("lora_dropout", ""):
                self.noted.append(
                    ("TRL's lora_dropout", "ppo trains without dropout, which would change what it compares")
                )
            found |= lora
        if self.factory or "template" in said:
            if said.get("template") == "empty":
                why = "plain prompts stay as they are; rows of messages have the model's own chat template"
                self.noted.append((self.shown["template"], why))
            elif "as_chat" not in given:
                found["as_chat"] = "true"
                self.noted.append((self.shown.get("template", "template"), NAMES["template"].said))
        self._data_sets(given, found, known)
        if "max-samples" in said and "," in said.get("dataset", ""):
            why = (
                "there it limits each data set, and --max-rows all together: leave it out, or cut each one (prefcli "
                f"data convert FILE a.jsonl, head -n {said['max-samples']} a.jsonl > b.jsonl) and name those"
            )
            self.refused.append((self.shown["max-samples"], why))
        elif "max-samples" in said:
            found["max_rows"] = said["max-samples"]
        if "adapter-name-or-path" in said:
            found["model"] = said["adapter-name-or-path"]
        if "total-episodes" in said and "max_steps" not in given:
            batch = str(given.get("batch_size") or found.get("batch_size", ""))
            if _is_count(batch) and int(batch) and _is_count(said["total-episodes"]):
                found["max_steps"] = str(math.ceil(int(said["total-episodes"]) / int(batch)))
            else:
                why = "--max-steps rollouts of --batch-size answers each, or --epochs over the prompts"
                self.refused.append((self.shown["total-episodes"], why))
        if "warmup-steps" in said:
            found["warmup"] = fraction = _fraction(
                said["warmup-steps"], given.get("max_steps") or found.get("max_steps")
            )
            if fraction is None:
                why = "--warmup is a fraction of the steps, for example --warmup 0.1"
                self.refused.append((f"{self.shown['warmup-steps']} {said['warmup-steps']}", why))
        return {name: value for name, value in found.items() if name in known and value is not None}

    def _data_sets(self, given: Mapping[str, Any], found: dict[str, Any], known: Mapping[str, Any]) -> None:
        """Add the files or hub ids of `dataset` and `eval_dataset`, and the --map and --split of dataset_info.json."""
        said, folder = self.jointly, Path(self.jointly.get("dataset-dir", "data"))
        data = canonical("data", known) or "data"
        names = [name.strip() for name in said["dataset"].split(",")] if "dataset" in said and data not in given else []
        held_out = [said["eval-dataset"]] if "eval-dataset" in said else []
        entries = {name: _entry(name, folder) for name in names + held_out}
        files = {
            name: str(folder / str(entry["file_name"]) if "file_name" in entry else entry.get("hf_hub_url", name))
            for name, entry in entries.items()
        }
        if names:
            found[data] = [files[name] for name in names]
        if held_out:
            found["eval_data"] = files[held_out[0]]
        where = self.shown.get("dataset") or self.shown.get("eval-dataset", "")
        for name, entry in entries.items():
            if unread := _unread(entry):
                what = f"of {name!r} in dataset_info.json {', '.join(unread)} cannot be applied here"
                self.refused.append((where, f"{what}: change the rows first"))
        for part, of, field_name in (("columns", _columns, "map"), ("splits", _split, "split")):
            every = {name: of(entry) for name, entry in entries.items()}
            if field_name in given or not any(every.values()):
                continue
            (first, wanted), *others = every.items()
            found[field_name] = wanted
            if unlike := [name for name, other in others if other != wanted]:
                why = f"{first!r} and {', '.join(map(repr, unlike))} have other {part} in dataset_info.json, and "
                why += f"there is one {option(field_name)} for all data sets: convert each (prefcli data convert), and "
                why += "name the new files"
                self.refused.append((where, why))
            text = wanted if isinstance(wanted, str) else f" {option(field_name)} ".join(wanted)
            self.noted.append(("dataset_info.json", f"read with {option(field_name)} {text}"))

    @property
    def factory(self) -> bool:
        """Whether a file is LLaMA-Factory's."""
        return bool(self.in_file & FACTORY)

    def told(self, given: Mapping[str, Any], ours: Mapping[str, Any], command: str) -> str:
        """The names that are not used and why, a line per reason; and the defaults that differ from theirs."""
        reasons: dict[str, list[str]] = {}
        for shown, why in self.noted:
            reasons.setdefault(why, []).append(shown.rpartition(": ")[2])
        lines = [f"  {', '.join(names)}: {why}" for why, names in reasons.items()]
        if command in BY_COMMAND and (self.in_file or self.noted):
            rates = BY_COMMAND[command].rates
            here = {
                **ours,
                "lr": f"{rates[0]:g}, with adapters {rates[0] * ADAPTER_RATE:g}, of small models {rates[1]:g}",
            }
            there = THEIR_DEFAULTS | (
                FACTORY_DEFAULTS if self.factory else {"lr": TRL_LR.get(command, FACTORY_DEFAULTS["lr"])}
            )
            if command == "dpo" and (loss := LOSSES.get(given.get("loss", ours["loss"]))):
                here |= {name: f"{value:g}" for name, value in {"beta": loss.beta, **loss.parameters}.items()}
                there |= LOSS_DEFAULTS
            if self.jointly.get("use-peft") == "true" and not _is_zero(given.get("lora_rank")):
                here["lora_target"] = "all-linear"
                there["lora_target"] = "q_proj and v_proj of most models"
            theirs = "LLaMA-Factory" if self.factory else "TRL"
            left = [f"{option(name)} {here[name]} ({theirs}: {value})" for name, value in there.items()
                    if name not in given and here.get(name) is not None and str(here[name]) != value]  # fmt: skip
            lines += [f"  not set, so prefcli's defaults apply: {', '.join(left)}"] if left else []
        return "\n".join(lines)

    def _lora_defaults(self) -> Mapping[str, str]:
        """Of a LoRA adapter that is asked for without its rank, as they are there."""
        if self.jointly.get("use-peft") == "true":
            return TRL_LORA
        return FACTORY_LORA if self.jointly.get("finetuning-type", "lora" if self.factory else "") == "lora" else {}

    def leave_out_adapter(self, options: dict[str, Any], rank: Any, usual: Mapping[str, Any]) -> None:
        """With rank 0, as in a file of theirs without one, take what a file says of an adapter out of the options."""
        rank = usual.get("lora_rank") if rank is None and self.in_file else rank
        for name in ADAPTER if _is_zero(rank) else ():
            if name in self.places and name in options and not agree(options.pop(name), str(usual[name])):
                self.noted.append((self.places[name], "all weights are trained, without an adapter"))


def agree(value: Any, translated: str) -> bool:
    """Whether a value, as it is written, is that of a table's entry."""
    text = str(value).lower()
    if translated in BOOLEAN:
        return (text in ("true", "yes", "on", "1")) == (translated == "true")
    return _number(text) == _number(translated)


def _is_option(word: str) -> bool:
    """Whether a word begins an option: not "-", which is standard input, and not a negative number."""
    return word.startswith("-") and len(word) > 1 and isinstance(_number(word), str)


def _is_zero(value: Any) -> bool:
    return _number(str(value)) == 0


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


def _fraction(steps: str, of: Any) -> str | None:
    """warmup_steps as a fraction, which below 1 it is (transformers 5). None: of an unknown number."""
    number, total = _number(steps), _number(str(of))
    if not isinstance(number, float) or number < 1:
        return steps
    if not isinstance(total, float) or total < 1:
        return None
    return str(min(1.0, number / total))


def _entry(name: str, folder: Path) -> dict[str, Any]:
    """What LLaMA-Factory's dataset_info.json says of a data set; nothing where it has none of that name."""
    try:
        found = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))[name]
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _columns(entry: Mapping[str, Any]) -> list[str]:
    """Its `columns` as --map, those that have our names left out."""
    columns, ours = _mapping(entry, "columns"), dict(_COLUMNS)
    roles = entry.get("formatting") == "openai" or _mapping(entry, "tags").get("role_tag") == "role"
    if roles and "messages" in columns and "chosen" not in columns:
        ours |= {"messages": "messages", "kto_tag": "label"}
    return [f"{ours[name]}={theirs}" for name, theirs in columns.items() if ours.get(name, theirs) != theirs]


def _split(entry: Mapping[str, Any]) -> str:
    """The split that it names, where that is not the usual one."""
    return "" if entry.get("split") in (None, "train") else str(entry["split"])


def _unread(entry: Mapping[str, Any]) -> list[str]:
    """What of an entry decides which rows are read, and how, and has no counterpart."""
    found = [name for name in ("subset", "folder", "num_samples") if entry.get(name)]
    if entry and not entry.keys() & {"file_name", "hf_hub_url"}:
        found += [name for name in entry if name.endswith("_url") or name == "cloud_file_name"]
    if entry.get("formatting", "alpaca") not in ("alpaca", "sharegpt", "openai"):
        found.append(f"formatting {entry['formatting']}")
    found += [f"columns.{name}" for name in _mapping(entry, "columns") if name not in _COLUMNS]
    return found + [f"tags.{name} {value}" for name, value in _mapping(entry, "tags").items()
                    if value not in _TAGS.get(name, ())]  # fmt: skip


def _mapping(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = entry.get(name)
    return {key: value for key, value in found.items() if value} if isinstance(found, dict) else {}


def spell_out(args: list[str], known: dict[str, Any]) -> tuple[list[str], Brought]:
    """Command-line words with every option in our own spelling (`--model_name_or_path` → `--model`), and what those say
    that are not another word for one. Raises UsageError: options that are not there, all of them; a file that no option
    names."""
    spelt: list[str] = []
    brought, at = Brought(), 0
    positional = any(opt.positional for _, opt in known.values())
    while at < len(args):
        arg, at = args[at], at + 1
        if arg == "--":
            spelt += args[at - 1 :]
            break
        given, equals, value = arg[2:].partition("=")
        if not arg.startswith("--") or given in HELP:
            if not positional and not arg.startswith("-") and (taker := of_file(arg, known)):
                raise UsageError(f"unexpected argument {arg} (no option before it)", f"{taker} {arg}")
            spelt.append(arg)
            continue
        negative = given[:3] in ("no-", "no_") and canonical(given, known) is None
        values = [value] if equals else args[at : at + belonging(given, args[at:], known)]
        name = given[3:] if negative else given
        field, entry = canonical(name, known), named(name)
        valued = entry is not None and not entry.switch and bool(entry.jointly or entry.values)
        if negative and (not is_switch(known[field][0]) if field else valued):
            brought.refused.append((f"--{given}", f"--{name} takes a value"))
            continue
        if negative and equals and (field or entry):
            raise UsageError(f"{arg}: a --no- form takes no value", f"--{name} or --{given}")
        said = ["false"] if negative else values or ["true"]
        if brought.takes(name, said, known, f"--{given}"):
            pass
        elif field is None:
            brought.refused.append((f"--{given}", hint(given, known, "see --help for the names")))
            values = values if not values or values[0][:1] != "-" else []
        elif is_switch(known[field][0]) and (not equals or value.lower() in BOOLEAN):
            off = negative or [one.lower() for one in values] == ["false"]
            spelt.append(option(f"no_{field}" if off else field))
        elif equals:
            spelt.append(f"{option(field)}={value}")
        else:
            spelt += [word for one in values for word in (option(field), one)] or [option(field)]
        at += 0 if equals else len(values)
    if "warmup" in brought.fields and "warmup-steps" in brought.jointly:
        del brought.jointly["warmup-steps"]
        brought.noted.append((brought.shown["warmup-steps"], NO_WARMUP))
    missing = brought.refused + ([] if "lr" in known else brought.noted)  # a command that trains is told of these
    if missing:
        several = len(missing) > 1
        why = [f"{shown}: {why}" for shown, why in missing] if several else [missing[0][1]]
        raise UsageError(
            f"no such option{'s' * several}: {', '.join(shown for shown, _ in missing)}", "\n      ".join(why)
        )
    return spelt, brought


def of_file(word: str, known: Mapping[str, Any]) -> str | None:
    """The option that a file which stands alone on the line was meant for, by its ending."""
    if word.endswith((".yaml", ".yml")):
        return "--config" if "config" in known else None
    return option(canonical("data", known) or "data") if os.path.exists(word) and canonical("data", known) else None
