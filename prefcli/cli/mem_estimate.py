"""`prefcli mem-estimate`: PPO's four models against DPO's two, before anything is run."""

from __future__ import annotations

import json
import sys
import textwrap
from functools import partial
from typing import TYPE_CHECKING

from prefcli.cli.out import draw_picture, picture_file
from prefcli.cli.stdout import print_result, result
from prefcli.config.memory import MemoryConfig
from prefcli.config.stages import BY_COMMAND
from prefcli.errors import UsageError
from prefcli.memory.architecture import Architecture
from prefcli.memory.comparison import Comparison, Method, as_dict, compare
from prefcli.memory.devices import found_gpu
from prefcli.memory.estimate import PARTS
from prefcli.memory.gpus import USABLE_SHARE, Gpu, find_gpu
from prefcli.memory.model_files import read_architecture
from prefcli.memory.run import Run
from prefcli.memory.shapes import typical
from prefcli.memory.sizes import format_bytes, format_count, parse_count

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

DEFAULT_GPU = "A100-80GB"
NAMES = {"ppo": "PPO", "dpo": "DPO"}
SHORT = {"temporary": "temp"}  # the table is as wide as a terminal
BAR = 28  # characters of a bar that is one base model
WIDEST = 100  # running text in longer lines is hard to read
# Beyond this --batch-size and --max-length are a slip, and floats would run over.
MOST_TOKENS = 10**12
# For terminals that cannot show more than ASCII.
PLAIN = str.maketrans({"█": "#", "░": ".", "×": "x"})


def run(config: MemoryConfig) -> None:
    """Print the answer to stdout (one JSON object with --json), and draw it with --plot."""
    plot = picture_file("--plot", config.plot)
    if config.batch_size * config.max_length > MOST_TOKENS:
        raise UsageError(f"--batch-size × --max-length is {config.batch_size * config.max_length} tokens: too many")
    if config.probe:
        from prefcli.cli.mem_probe import probe

        probe(config)
        return
    if config.compare and config.stage is not None:
        raise UsageError("--compare is of all methods, and --stage names one", "leave one of them out")
    if config.zero and config.gpus == 1:
        raise UsageError(f"--zero {config.zero} splits over GPUs, and --gpus is 1", "give --gpus N")
    gpu = _gpu(config.gpu)
    architecture = _architecture(config)
    if config.stage is None and not config.compare:
        _two_routes(config, architecture, gpu, plot)
        return
    from prefcli.memory import methods

    asked = _run(config, architecture)
    found = methods.side_by_side(asked, gpu) if config.compare else [methods.answer(config.stage or "", asked, gpu)]
    if plot:
        from prefcli.report.memory_chart import draw_methods

        draw_picture("--plot", plot, partial(draw_methods, found, gpu))
    if config.json:
        about = {"gpu": {"name": gpu.name, "bytes": gpu.bytes, "usable_bytes": gpu.usable_bytes}}
        print_result(json.dumps(about | {"methods": {one.name: methods.as_dict(one) for one in found}}, indent=2))
        return
    from prefcli.cli.mem_answers import show_all, show_one

    if config.compare:
        show_all(found, gpu)
    else:
        show_one(found[0], gpu)


def _saved(comparison: Comparison) -> str:
    ppo, dpo = (comparison.methods[name].estimate for name in ("ppo", "dpo"))
    value, reward = (format_bytes(ppo.roles[name].bytes) for name in ("value", "reward"))
    if (saved := ppo.bytes - dpo.bytes) < 0:
        return (
            f"By bytes DPO takes {format_bytes(-saved)} more here: its rows are two answers, and what a pass holds of "
            "them outweighs so small a model."
        )
    return (
        f"By bytes DPO saves {format_bytes(saved)} ({comparison.saving_bytes:.1%}), most of it by having no value "
        f"model ({value}, trained); having no reward model saves {reward} (frozen)."
    )


def _two_routes(config: MemoryConfig, architecture: Architecture, gpu: Gpu, plot: Path | None) -> None:
    comparison = compare(
        architecture,
        gpu,
        batch_size=config.batch_size,
        max_length=config.max_length,
        checkpointing=config.gradient_checkpointing,
    )
    if plot:
        from prefcli.report.memory_chart import draw

        draw_picture("--plot", plot, partial(draw, comparison))
    if config.json:
        print_result(json.dumps(as_dict(comparison), indent=2))
    else:
        _show(comparison)


def _gpu(kind: str | None) -> Gpu:
    """The kind that is named, or the device that is here. Raises UsageError: unknown."""
    if kind is not None:
        return find_gpu(kind)
    here = found_gpu()
    return find_gpu(DEFAULT_GPU) if here is None else Gpu(here.name, here.bytes, "nvidia-smi, here")


def _run(config: MemoryConfig, architecture: Architecture) -> Run:
    """The options as a run. Raises UsageError for what does not go together."""
    lora = config.lora_rank > 0
    if config.load_in_4bit and not lora:
        raise UsageError("--load-in-4bit is about adapters, and --lora-rank is 0", "give --lora-rank 16")
    if config.layout == "shared" and not lora:
        raise UsageError("--layout shared is about adapters, and --lora-rank is 0", "give --lora-rank 16")
    if config.prompt_length > config.max_length:
        raise UsageError(f"--prompt-length {config.prompt_length} is more than --max-length {config.max_length}")
    stage, split = BY_COMMAND[config.stage or "ppo"], {"zero": config.zero, "shards": config.gpus}
    return Run.of(stage, config, architecture, "cuda", config.max_length, config.prompt_length, **split)


def _architecture(config: MemoryConfig) -> Architecture:
    if (config.params is None) == (config.model is None):
        say = "both were given" if config.params is not None else "neither was given"
        raise UsageError(f"give either --params or --model: {say}", "for example: prefcli mem-estimate --params 7B")
    if config.params is not None:
        return typical(parse_count(config.params))
    assert config.model is not None
    from prefcli.artifacts.store import Store
    from prefcli.memory.references import config_file

    path, note = config_file(config.model, Store(config.runs))
    if note:
        print(f"note: {note}", file=sys.stderr)
    return read_architecture(path)


def _show(comparison: Comparison) -> None:
    from rich.console import Console

    console = Console(file=result(), highlight=False, markup=False, emoji=False)
    base = comparison.architecture.parameters
    _write(console, f"Models in memory for a base of {format_count(base)} parameters", style="bold")
    _write(console, "█ trained   ░ frozen\n")
    for name, method in comparison.methods.items():
        _bars(console, NAMES[name], method)
    _write(console, _saving(comparison) + "\n")
    console.print(_table(comparison))
    _write(console, "")
    for name, text in _remarks(comparison).items():
        _write(console, f"{name:<8}{text}")


def _write(console: Console, text: str, style: str | None = None) -> None:
    """Print wrapped text; lines after the first stand under the second column."""
    if "utf" not in console.encoding.lower():
        text = text.translate(PLAIN)
    for line in text.split("\n"):
        wrapped = textwrap.wrap(
            line, min(console.width, WIDEST), subsequent_indent=" " * 8, break_on_hyphens=False, drop_whitespace=True
        )
        console.print("\n".join(wrapped), style=style, soft_wrap=True)


def _bars(console: Console, name: str, method: Method) -> None:
    """One bar a model, in units of the base model."""
    worth = f"{name}  {method.models} models, {format_count(method.parameters)} parameters' worth"
    _write(console, worth, style="bold")
    base = method.estimate.run.architecture.parameters
    for role, share in method.estimate.roles.items():
        units = share.parameters / base
        bar = ("█" if share.trained else "░") * round(BAR * units)
        text = f"  {role:<10}{bar:<{BAR}} {f'{units:.2g}×':<5} {format_count(share.parameters):<6}"
        _write(console, text + (" trained" if share.trained else " frozen"), "cyan" if share.trained else "yellow")
    _write(console, "")


def _table(comparison: Comparison) -> Table:
    """Bytes by role and part. One unit throughout, so that columns can be compared by eye."""
    from rich.box import SIMPLE
    from rich.table import Table

    largest = comparison.methods["ppo"].estimate.bytes
    unit, size = next((u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if largest >= s)
    decimals = 1 if largest / size >= 100 else 2
    table = Table(box=SIMPLE, padding=(0, 1), pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column(unit, no_wrap=True)
    for part in (*PARTS, "total"):
        table.add_column(SHORT.get(part, part), justify="right", no_wrap=True)
    for name, method in comparison.methods.items():
        rows = [(role, share.parts, share.bytes) for role, share in method.estimate.roles.items()]
        rows.append(("total", method.estimate.parts, method.estimate.bytes))
        for index, (role, parts, total) in enumerate(rows):
            cells = [f"{value / size:,.{decimals}f}" if value else "-" for value in (*parts.values(), total)]
            last = index == len(rows) - 1
            label = f"{NAMES[name] if index == 0 or last else '':<4}{role}"
            table.add_row(label, *cells, end_section=last, style="bold" if last else None)
    return table


def _saving(comparison: Comparison) -> str:
    ppo, dpo = (comparison.methods[name] for name in ("ppo", "dpo"))
    return (
        f"DPO saves {comparison.saving:.0%} of the parameters: {format_count(dpo.parameters)} in place of "
        f"{format_count(ppo.parameters)}."
    )


def _remarks(comparison: Comparison) -> dict[str, str]:
    """What stands under the table: GPUs, bytes, assumptions, and where the count of models misleads."""
    ppo, dpo = (comparison.methods[name] for name in ("ppo", "dpo"))
    run, gpu, a = ppo.estimate.run, comparison.gpu, comparison.architecture
    shape = (
        f"{a.layers} layers, hidden {a.hidden:,}, {a.heads} heads ({a.kv_heads} for keys and values), "
        f"MLP {a.ffn:,}, vocabulary {a.vocab:,}"
    )
    source = f"typical of {format_count(a.parameters)}, after {a.name}" if a.stated_parameters else a.name
    chunk = f", logits in chunks of {run.logit_chunk:,} positions" if run.logit_chunk else ""
    return {
        "States": f"weights, gradients and optimizer states alone: {format_bytes(ppo.estimate.state_bytes)} for PPO, "
        f"{format_bytes(dpo.estimate.state_bytes)} for DPO.",
        "GPUs": f"{ppo.gpus:,} for PPO, {dpo.gpus:,} for DPO ({gpu.name}: {format_bytes(gpu.usable_bytes)} usable, "
        f"{USABLE_SHARE:.0%} of {format_bytes(gpu.bytes)}; the total split evenly over them).\n",
        "Assumed": "all weights trained in fp32, computed with in bf16, AdamW: 16 bytes a trained parameter "
        "(4 weights + 4 gradients + 8 moments), 2 a frozen one. Batch "
        f"{run.batch_size:,} × {run.max_length:,} tokens (a row of DPO is two answers: {dpo.estimate.run.tokens:,}), "
        f"{'with' if run.checkpointing else 'without'} gradient checkpointing{chunk}.",
        "Shape": f"{source}: {shape}.",
        "Limits": "calculated; docs/memory.md has it against measured peaks. The driver's context and fragments are in "
        "the tenth that is left. 1 GB is 10^9 bytes.\n",
        "Note": "counting models is not counting bytes: a frozen model costs 2 bytes a parameter, a trained one 16. "
        + _saved(comparison),
    }
