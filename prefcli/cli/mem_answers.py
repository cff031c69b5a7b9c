"""The output of `prefcli mem-estimate`: PPO against DPO, one stage, or all methods."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from prefcli.cli.stdout import result
from prefcli.memory.estimate import PARTS
from prefcli.memory.fit import LOCKSTEP
from prefcli.memory.methods import Method, Routes
from prefcli.memory.sizes import format_bytes, format_count

BASE_BAR, BAR = 28, 30  # characters of a bar: of one base model, of the method that takes the most
SIGNS = dict(zip(PARTS, "WGOTAL"))
WIDEST = 100  # running text in longer lines is hard to read
# For terminals that cannot show more than ASCII.
PLAIN = str.maketrans({"█": "#", "░": ".", "×": "x", "…": "..."})
# Packed rows are split: a larger batch is more passes of the same size.
NO_LIMIT = "no limit (more rows or tokens run in more passes of the same size)"


def show(found: Routes | list[Method]) -> None:
    if isinstance(found, Routes):
        _show_routes(found)
    elif len(found) == 1:
        _show_one(found[0])
    else:
        _show_all(found)


def _show_routes(routes: Routes) -> None:
    """A bar for each model, what DPO saves, bytes by role and part, and what was assumed."""
    console = _console()
    _write(console, f"Models in memory for a base of {_base(routes.ppo)} parameters", "bold")
    _write(console, "█ trained   ░ frozen\n")
    for method in routes.both:
        _bars(console, method)
    count = [format_count(method.parameters) for method in routes.both]
    _write(console, f"DPO saves {routes.saving:.0%} of the parameters: {count[1]} instead of {count[0]}.\n", indent=8)
    # One unit throughout, so that columns can be compared by eye.
    most = routes.ppo.estimate.bytes
    unit, size = next((u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if most >= s)
    decimals = 1 if most / size >= 100 else 2
    console.print(_table(unit, routes.both, lambda value: f"{value / size:,.{decimals}f}"))
    _write(console, "")
    for name, text in _remarks(routes).items():
        _write(console, f"{name:<8}{text}", indent=8)


def _show_one(method: Method) -> None:
    """Bytes by role and part, the peak of each phase, and the answers."""
    found, gpu, console = method.estimate, method.gpu, _console()
    each = f" on each of {method.run.shards} GPUs" if method.run.shards > 1 else ""
    console.print(f"{method.name}, {_base(method)} parameters: {format_bytes(found.bytes)} at the peak{each}, in the "
                  f"{found.phase}", style="bold")  # fmt: skip
    console.print(_table("", [method], format_bytes))
    if found.run.lockstep:
        _write(console, f"Here {LOCKSTEP}.")
    _write(console, "Phases: " + ", ".join(f"{name} {format_bytes(size)}" for name, size in found.phases.items()))
    verdict = "fits" if method.fits else "does not fit"
    rest = "the driver's context and fragments" if gpu.count else "the system, Python and its libraries"
    _write(console, f"On {gpu.name}: {verdict} (needs {format_bytes(found.bytes)}; {format_bytes(gpu.usable_bytes)} of "
                    f"{format_bytes(gpu.bytes)} are usable, the rest is for {rest})")  # fmt: skip
    if method.fits:
        for name, most in (("--batch-size", method.largest_batch), ("--max-length", method.largest_length)):
            _write(console, f"Largest {name} that fits: {NO_LIMIT if most is None else f'{most:,}'}")
    elif method.split is not None:
        _write(console, f"It takes {method.gpus:,} of them, {format_bytes(method.split.fitted_bytes)} on each:")
        _write(console, f"{method.split.command}", indent=4)
        if method.split.estimate.run.lockstep:
            _write(console, f"There {LOCKSTEP}.")
        _write(console, f"On one: {_changes(method)}")
    else:
        _write(console, f"To make it fit: {_changes(method)}")
    if method.command:
        _write(console, f"Run: {method.command}", indent=4)


def _show_all(methods: Sequence[Method]) -> None:
    """One line a method with a bar by part, and what each needs."""
    console, gpu = _console(), methods[0].gpu
    most = max(method.estimate.bytes for method in methods)
    _write(console, f"Methods for a base of {_base(methods[0])} parameters on {gpu.name} "
                    f"({format_bytes(gpu.usable_bytes)} usable)", "bold")  # fmt: skip
    _write(console, "  ".join(f"{sign} {part}" for part, sign in SIGNS.items()) + "\n")
    width = max(len(method.name) for method in methods)
    for method in methods:
        bar = "".join(SIGNS[part] * round(BAR * size / most) for part, size in method.estimate.parts.items())
        _write(console, f"{method.name:<{width}}  {bar:<{BAR + 2}} {format_bytes(method.estimate.bytes):>8}  "
                        f"{method.verdict}")  # fmt: skip
    _write(console, "")
    for method in methods:
        size = format_bytes(method.to_run.fitted_bytes)
        first = "after a run on the same pairs, " if method.run.cached_reference else ""
        _write(console, f"{method.name}: {first}{command} ({size})" if (command := method.to_run.command) else
               f"{method.name}: no options make it fit; use a smaller model", indent=4)  # fmt: skip
    one, shared, _, dpo = (method.estimate for method in methods[:4])
    if one.state_bytes < one.bytes / 2:
        return  # so small a base that its models are not what takes the memory
    _write(
        console,
        f"\n4 models against 2 is the simple count. By bytes PPO is {one.bytes / dpo.bytes:.1f} times DPO: a frozen "
        "model has weights alone, and a row of DPO is two answers. With adapters on one base PPO takes "
        f"{format_bytes(shared.bytes)}, {shared.bytes / one.bytes:.0%} of what it takes with four models.",
    )


def _base(method: Method) -> str:
    return format_count(method.run.architecture.parameters)


def _gpus(routes: Routes) -> str:
    """The number of GPUs needed: only counts that prefcli itself can use."""
    gpu = routes.ppo.gpu
    usable = f"{gpu.name}: {format_bytes(gpu.usable_bytes)} usable of {format_bytes(gpu.bytes)}"
    shown = [f"{method.gpus:,} for {method.name}" for method in routes.both if method.gpus]
    without = [method.name for method in routes.both if not (method.gpus if gpu.count else method.fits)]
    several = " or ".join(without)
    if not gpu.count:
        told = f"{usable}. " + (f"{several} with all weights does not fit." if without else "Both fit.")
    elif shown:
        told = f"{' and '.join(shown)} ({usable}; several hold them with --shard)."
    else:
        told = f"{usable}."
    if without and gpu.count:
        told += f" No number of them holds {several} with all weights: what each gathers and computes is too much."
    adapter = routes.adapter
    if without and adapter.command:
        told += (
            f" With an adapter DPO fits, {format_bytes(adapter.fitted_bytes)}: {adapter.command} (--compare shows all)."
        )
    return told


def _changes(method: Method) -> str:
    if method.changes is None:
        return "no options make it fit; use a smaller model"
    return "then ".join(
        f"{change.option} ({format_bytes(change.bytes)}; {change.costs}) " for change in method.changes
    ).strip()


def _bars(console: Console, method: Method) -> None:
    """One bar a model, in units of the base model."""
    _write(
        console, f"{method.name}  {method.models} models, {format_count(method.parameters)} parameters in all", "bold"
    )
    for name, role in method.estimate.roles.items():
        units = role.parameters / method.run.architecture.parameters
        sign, trained, colour = ("█", "trained", "cyan") if role.trained else ("░", "frozen", "yellow")
        text = f"  {name:<10}{sign * round(BASE_BAR * units):<{BASE_BAR}} {f'{units:.2g}×':<5} "
        _write(console, f"{text}{format_count(role.parameters):<6} {trained}", colour)
    _write(console, "")


def _table(first: str, methods: Sequence[Method], shown: Callable[[int], str]) -> Table:
    """Bytes by role and part; of several methods with their totals."""
    table = Table(box=SIMPLE, padding=(0, 1), pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column(first, no_wrap=True)
    for part in (*PARTS, "total"):
        table.add_column({"temporary": "temp"}.get(part, part), justify="right", no_wrap=True)
    for method in methods:
        rows = [(role, share.parts, share.bytes) for role, share in method.estimate.roles.items()]
        several = len(methods) > 1
        if several:
            rows.append(("total", method.estimate.parts, method.estimate.bytes))
        for index, (role, parts, total) in enumerate(rows):
            last = several and index == len(rows) - 1
            name = f"{method.name if index == 0 or last else '':<4}" if several else ""
            cells = [shown(size) if size else "-" for size in (*parts.values(), total)]
            table.add_row(name + role, *cells, end_section=last, style="bold" if last else None)
    return table


def _remarks(routes: Routes) -> dict[str, str]:
    """The remarks under the table: GPUs, bytes, assumptions, and where the count of models misleads."""
    ppo, dpo = routes.both
    run, a = ppo.run, ppo.run.architecture
    source = f"typical of {_base(ppo)}, after {a.name}" if a.stated_parameters else a.name
    return {
        "States": "weights, gradients and optimizer states alone: "
        f"{format_bytes(ppo.estimate.state_bytes)} for PPO, {format_bytes(dpo.estimate.state_bytes)} for DPO.",
        "GPUs": _gpus(routes) + "\n",
        "Assumed": f"all weights trained in float32, computed in {run.dtype}, AdamW: 16 bytes a trained parameter "
        f"(4 weights + 4 gradients + 8 moments), {run.dtype_bytes} a frozen one. Batch "
        f"{run.batch_size:,} × {run.max_length:,} tokens (a row of DPO is two answers: {dpo.run.tokens:,}), "
        f"{'with' if run.checkpointing else 'without'} gradient checkpointing.",
        "Shape": f"{source}: {a.layers} layers, hidden {a.hidden:,}, {a.heads} heads ({a.kv_heads} for keys and "
        f"values), MLP {a.ffn:,}, vocabulary {a.vocab:,}.",
        "Limits": "calculated; docs/memory.md has it against measured peaks. The driver's context and fragments are in "
        "the tenth that is left. 1 GB is 10^9 bytes.\n",
        "Note": f"counting models is not counting bytes: a frozen model costs {run.dtype_bytes} bytes a parameter, a "
        "trained one 16. " + _saved(routes),
    }


def _saved(routes: Routes) -> str:
    ppo, dpo = (method.estimate for method in routes.both)
    if (saved := ppo.bytes - dpo.bytes) < 0:
        return (
            f"By bytes DPO takes {format_bytes(-saved)} more here: its rows are two answers, and what a pass holds of "
            "them outweighs so small a model."
        )
    value, reward = (format_bytes(ppo.roles[name].bytes) for name in ("value", "reward"))
    return (
        f"By bytes DPO saves {format_bytes(saved)} ({routes.saving_bytes:.1%}), most of it by having no value "
        f"model ({value}, trained); having no reward model saves {reward} (frozen)."
    )


def _console() -> Console:
    return Console(file=result(), highlight=False, markup=False, emoji=False)


def _write(console: Console, text: str, style: str | None = None, indent: int = 2) -> None:
    """Print wrapped text; lines after the first stand `indent` characters in."""
    if "utf" not in console.encoding.lower():
        text = text.translate(PLAIN)
    width = min(console.width, WIDEST)
    for line in text.split("\n"):
        lines = textwrap.wrap(line, width, subsequent_indent=" " * indent, break_on_hyphens=False)
        console.print("\n".join(lines), style=style, soft_wrap=True)
