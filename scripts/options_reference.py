"""Writes docs/options.md from the dataclasses of options: `--write`, or `--check` (fails when the page is stale)."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prefcli.cli.help import groups
from prefcli.cli.main import ALL
from prefcli.config.base import Opt, default_of, option, typed_options
from prefcli.config.names import NAMES
from prefcli.config.shared import SHARED

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
HEAD = """# Options

Made by `make docs` from the dataclasses in `prefcli/config/`; do not edit. Where a command has `--config`, its options
can be set in a YAML file under their names without the dashes (`prefcli config dpo` prints one with all defaults), and
every switch has a `--no-` version that overrides the file. Snake case is accepted for all (`--kl_coef`), and so are
[the names of TRL, Hugging Face and LLaMA-Factory](#names-of-trl-hugging-face-and-llama-factory).
"""
THEIRS = """## Names of TRL, Hugging Face and LLaMA-Factory

They are read on the command line and in `--config`, where a file of theirs can be given as it is; a script of theirs
runs with `prefcli dpo` in place of `trl dpo`. What is not used is listed with the reason; what would change the
result and has no counterpart is refused, all of it at once, with the lines.

- Batch: `per_device_train_batch_size` × `gradient_accumulation_steps` × processes is `--batch-size`, and
  `--grad-accum` the second of them (8 rows where only that is said, as in TrainingArguments).
- `use_peft` is LoRA with TRL's defaults, rank 16, alpha 32 and dropout 0.05 (ppo: none); `lora_r` in a file without it
  is not used, as there, but for `adapter` beside it, as in axolotl's. `finetuning_type: lora`, and a file of
  LLaMA-Factory's that does not say it, is LoRA with rank 8. Where all weights are trained, what a file of theirs says
  of an adapter is not used.
- `bf16` and `fp16` count, and not a `dtype` of float32 beside them in a file: there it is the type in which weights are
  loaded. `lr_scheduler_type: constant` has no warm-up, whatever is said of one. Other names of a file that say two
  values of one option are refused.
- `template`, and a file of LLaMA-Factory's without it, means the model's own chat template, for plain prompts too
  (`--as-chat`); `template: empty` leaves them plain.
- `dataset` is looked up in LLaMA-Factory's `dataset_info.json`, in `dataset_dir` (`data`). Its `columns` are read as
  `--map` (a column that they do not name, but that has its usual name, such as `input`, is read too), its `split` as
  `--split`. Data sets with different ones, `tags` that prefcli does not know, `subset` and `num_samples` are refused.
- `train` as the split of a single file is all its rows.
- What a file leaves out has prefcli's defaults, and the differences are listed: one epoch (3 there), a warm-up of
  0.05 (0), 16 rows a step (8 a process), seed 0 (42), the learning rate, LLaMA-Factory's `cutoff_len` of 2048 (1024
  here), a loss's own parameters (simpo, robust), and the layers that LoRA adapts where PEFT would choose. The schedule
  is linear everywhere.

"""
SHARED_HEAD = """## Shared options

Each command below names the groups that it has.
"""
TABLE = "| option | type | default | |\n|---|---|---|---|\n"


def page() -> str:
    shared: dict[str, dict[str, str]] = {title: {} for title in SHARED}  # group → option → its row
    commands = []
    for command, entry in ALL.items():
        cls = entry.options()
        typed, every = typed_options(cls), {field.name: field for field in fields(cls)}
        grouped = groups(cls)
        for title in [title for title in grouped if title in SHARED]:
            for name in grouped[title]:
                row = _row(every[name], *typed[name])
                if shared[title].setdefault(name, row) != row:
                    raise ValueError(f"{command}: {option(name)} of the group {title} is not what it is elsewhere")
        own = [name for title, names in grouped.items() if title not in SHARED for name in names]
        own = [name for name, (_, opt) in typed.items() if opt.positional] + own
        commands.append((f"## prefcli {command}", entry.help, [_row(every[n], *typed[n]) for n in own], grouped))
    parts = [HEAD, SHARED_HEAD]
    parts += [f"### {title}\n\n{TABLE}" + "\n".join(rows.values()) for title, rows in shared.items()]
    for heading, help_text, rows, grouped in commands:
        parts += [f"{heading}\n\n{help_text}", *([TABLE + "\n".join(rows)] if rows else [])]
        named = [_named(title, names, shared[title]) for title, names in grouped.items() if title in SHARED]
        parts += [f"Shared: {'; '.join(named)}."] if named else []
    parts.append(_theirs())
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _theirs() -> str:
    """NAMES as a page: other words for an option, values that are options, and what nothing answers to."""
    renamed: dict[str, list[str]] = {}
    said: dict[str, list[str]] = {}
    values = []
    for name, entry in NAMES.items():
        snake = f"`{name.replace('-', '_')}`"
        if entry.ours and entry.ours != name:
            renamed.setdefault(entry.ours, []).append(snake)
        elif not entry.ours and not entry.values:
            said.setdefault(entry.said, []).append(snake)
        for value, ours in entry.values.items():
            options = ", ".join(f"`{option(one)} {text}`" for one, text in ours.items())
            values += [f"| {snake[:-1]}: {value or '[]'}` | {options} |"] if options else []
    rows = [f"| `--{ours}` | {', '.join(names)} |" for ours, names in renamed.items()]
    why = [f"| {', '.join(names)} | {sentence} |" for sentence, names in said.items()]
    return "".join(
        [THEIRS, "| prefcli | TRL, LLaMA-Factory |\n|---|---|\n", *(f"{row}\n" for row in rows),
         "\n| TRL, LLaMA-Factory | prefcli |\n|---|---|\n", *(f"{row}\n" for row in values),
         "\n| no option of prefcli | what is done here, or what to do |\n|---|---|\n", *(f"{row}\n" for row in why)]
    )  # fmt: skip


def _named(title: str, names: list[str], every: dict[str, str]) -> str:
    """A group, with its options where a command has not all of them."""
    link = f"[{title}](#{title.lower().replace(' ', '-')})"
    return link if len(names) == len(every) else f"{link} ({', '.join(f'`{option(name)}`' for name in names)})"


def _row(field: Any, kind: Any, opt: Opt) -> str:
    shown = field.name.upper() if opt.positional else option(field.name)
    help_text = opt.help.replace("|", "\\|")
    return f"| `{shown}` | {_type(kind, opt)} | {_default(default_of(field))} | {help_text} |"


def _type(kind: Any, parameter: Any) -> str:
    members = [member for member in get_args(kind) if member is not type(None)]
    if len(members) == 1 and get_origin(members[0]) is Literal:  # or None
        return _type(members[0], parameter)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in members)
    if get_origin(kind) is list:
        return f"{members[0].__name__}, repeatable"
    name = members[0].__name__ if members else kind.__name__
    low, high = parameter.min, parameter.max
    if low is None:
        return str(name)
    return f"{name} ≥ {low:g}" if high is None or high > 2**31 else f"{name} {low:g}–{high:g}"


def _default(value: Any) -> str:
    if value in (None, MISSING) or value is False or value == []:
        return ""
    return "on" if value is True else f"`{value}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    found, wanted = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "", page()
    if parser.parse_args().write:
        PAGE.write_text(wanted, encoding="utf-8")
    elif found != wanted:
        sys.exit("docs/options.md is stale: run make docs")


if __name__ == "__main__":
    main()
