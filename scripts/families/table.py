"""docs/models.md: each family, the layout its rows take, what LoRA adapts, what is refused and why."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import peft
import torch
import transformers
import trl

from scripts.families.judging import EXACT, NONE, REFUSED, WRONG
from scripts.families.matrix import AFTER, CELLS, STAGES

Result = dict[str, Any]

HEAD = """# Models

Made by `make families`, from tiny random models; do not edit. With transformers {transformers}, trl {trl}, peft {peft}
and torch {torch}, on a CPU, in float32.

Each family is built with random weights, two to four layers and a tokenizer in its own style: how it cuts text, its
special tokens, its chat template (`scripts/families/`). Rows are longer than every window and chunk. Then the command
line runs, two steps each: `sft`, `train-rm`, `dpo`, `kto` and `ppo`, on all weights and with `--lora-rank`, packed and
with `--no-packed`; and after them `sample`, `score` and `export`. That is {cells} cells a family.

A cell is exact when

- the first step's values, packed and padded, are those of a plain forward of transformers on each row alone: sft's
  loss, and dpo's and kto's log-probabilities, within 1e-4 of a loss; train-rm's loss is the same in both layouts;
- the first loss of dpo is ln 2 and that of kto 0.5, and ppo's first KL is 0;
- weights moved;
- sampled tokens are the likeliest of the plain forward, and scores its scores;
- what was exported opens in plain transformers, or peft, and gives the same logits.

A cell is refused when the command stops before any training and says why, and what to do. Anything else is wrong.

{counts}

"layout": packed, or why rows stay padded (the values are the same, only slower: [packed rows](packed.md)). "LoRA
adapts": the modules, by the last part of their names. Modules that are not listed are not adapted, for example
the experts of a mixture where they are one stacked tensor.

| family | model type | what it has | layout | LoRA adapts | exact | refused, and why |{wrong_column}
|---|---|---|---|---|---|---|{wrong_rule}
"""


def page(results: list[Result]) -> str:
    wrong = any(_of(result, WRONG) or "failed" in result for result in results)
    head = HEAD.format(
        transformers=transformers.__version__,
        trl=trl.__version__,
        peft=peft.__version__,
        torch=torch.__version__.split("+")[0],
        cells=len(CELLS),
        counts=counted(results).capitalize() + ".",
        wrong_column=" wrong |" if wrong else "",
        wrong_rule="---|" if wrong else "",
    )
    return head + "".join(_row(result, wrong) for result in results)


def _row(result: Result, wrong: bool) -> str:
    if "failed" in result:
        columns = [result["family"], "", "", "", "", "0", "", result["failed"]]
    else:
        columns = [
            result["family"],
            f"`{result['model_type']}`",
            result["has"],
            _layout(result["layout"]),
            ", ".join(result["lora"]) or "–",
            f"{len(_of(result, EXACT))} of {len(result['cells'])}",
            _told(_of(result, REFUSED)),
            _told(_of(result, WRONG)),
        ]
    return "| " + " | ".join(_plain(column) for column in columns[: 8 if wrong else 7]) + " |\n"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _layout(layout: dict[str, str]) -> str:
    """The policy's; the reward model's where it is another."""
    policy, scorer = layout.get("policy"), layout.get("reward model")
    if policy is None:
        return "–"
    shown = policy if policy == "packed" else f"padded: {policy}"
    if scorer is None or scorer == policy or (scorer != "packed" and policy != "packed"):
        return shown
    return f"{shown}; its reward model {'packed' if scorer == 'packed' else f'padded: {scorer}'}"


def _told(cells: dict[str, str]) -> str:
    """Cells with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for cell, why in cells.items():
        by_reason.setdefault(_general(why), []).append(cell)
    return "; ".join(f"{_cells(names)}: {why}" for why, names in by_reason.items()) or "–"


def _general(why: str) -> str:
    """The reason without the folder that this run was in; its hint behind a semicolon."""
    return re.sub(r"(?<!\S)/\S+?(?=:?(\s|$))", "MODEL", why.replace(" hint: ", "; "))


def _cells(names: list[str]) -> str:
    """Stage by stage; a stage that is there with all its cells by its name alone."""
    shown = []
    for stage in (*STAGES, *dict.fromkeys(cell.split("/")[0] for cell in AFTER)):
        own = [name for name in CELLS if name.split("/")[0] == stage]
        there = [name for name in own if name in names]
        if there and len(there) == len(own):
            shown.append(_command(stage))
        else:
            shown += [_command(name.replace("/", " ")) for name in _halves(there)]
    return ", ".join(shown)


def _halves(names: list[str]) -> list[str]:
    """dpo/lora for dpo/lora/packed and dpo/lora/padded."""
    halves = Counter(name.rpartition("/")[0] for name in names if name.count("/") == 2)
    whole = {half for half, count in halves.items() if count == 2}
    return list(dict.fromkeys(half if (half := name.rpartition("/")[0]) in whole else name for name in names))


def _command(name: str) -> str:
    return "train-" + name if name == "rm" or name.startswith("rm ") else name


def _of(result: Result, verdict: str) -> dict[str, str]:
    return {cell: found["why"] for cell, found in result.get("cells", {}).items() if found["verdict"] == verdict}


def in_short(result: Result) -> str:
    """One line of a family's run."""
    if "failed" in result:
        return f"FAILED: {result['failed']}"
    told = [f"{len(_of(result, verdict))} {verdict}" for verdict in (EXACT, REFUSED, WRONG, NONE)]
    return f"{', '.join(told)}; {result['seconds']:.0f} s"


def counted(results: list[Result]) -> str:
    """How many cells there are of each kind."""
    verdicts = Counter(found["verdict"] for result in results for found in result.get("cells", {}).values())
    failed = sum("failed" in result for result in results)
    text = (
        f"{len(results)} families, {sum(verdicts.values()):,} cells: {verdicts[EXACT]:,} exact, "
        f"{verdicts[REFUSED]:,} refused, {verdicts[WRONG]:,} wrong, {verdicts[NONE]:,} without a model to run on"
    )
    return text + (f"; {failed} families could not be built" if failed else "")


def wrong(results: list[Result]) -> list[str]:
    """One line for each family that has wrong cells."""
    lines = [f"{result['family']}: {result['failed']}" for result in results if "failed" in result]
    return lines + [f"{result['family']}: {_told(cells)}" for result in results if (cells := _of(result, WRONG))]
