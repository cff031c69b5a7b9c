"""`prefcli mem-estimate --stage` and `--compare`: parts, whether it fits, and what would make it fit."""

from __future__ import annotations

import textwrap

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from prefcli.cli.stdout import result
from prefcli.memory.estimate import PARTS
from prefcli.memory.gpus import USABLE_SHARE, Gpu
from prefcli.memory.methods import Method
from prefcli.memory.sizes import format_bytes, format_count

BAR = 30
SIGNS = dict(zip(PARTS, "WGOTAL"))
WIDEST = 100
PLAIN = str.maketrans({"×": "x", "…": "..."})
# Packed rows are split: a larger batch is more passes of the same size.
NO_LIMIT = "none that matters (more rows, or tokens, are more passes of the same size)"


def show_one(method: Method, gpu: Gpu) -> None:
    """Bytes by role and part, the peak of each phase, and the answers."""
    found, console = method.estimate, _console()
    console.print(f"{method.name}, {format_count(found.run.architecture.parameters)} parameters: "
                  f"{format_bytes(found.bytes)} at the peak, in the {found.phase}", style="bold")  # fmt: skip
    table = _table("")
    for part in (*PARTS, "total"):
        table.add_column({"temporary": "temp"}.get(part, part), justify="right", no_wrap=True)
    for role, share in found.roles.items():
        table.add_row(role, *(format_bytes(size) if size else "-" for size in (*share.parts.values(), share.bytes)))
    console.print(table)
    _write(console, "Phases: " + ", ".join(f"{name} {format_bytes(size)}" for name, size in found.phases.items()))
    _answer(console, method, gpu)


def show_all(methods: list[Method], gpu: Gpu) -> None:
    """One line a method with a bar by part, and what each needs."""
    console, base = _console(), methods[0].estimate.run.architecture.parameters
    most = max(method.estimate.bytes for method in methods)
    usable = format_bytes(gpu.usable_bytes)
    _write(console, f"Methods for a base of {format_count(base)} parameters on {gpu.name} ({usable} usable)", "bold")
    _write(console, "  ".join(f"{sign} {part}" for part, sign in SIGNS.items()) + "\n")
    width = max(len(method.name) for method in methods)
    for method in methods:
        parts = method.estimate.parts
        bar = "".join(SIGNS[part] * round(BAR * size / most) for part, size in parts.items())
        fits = "fits" if method.fits else f"{method.gpus:,} GPUs"
        _write(console, f"{method.name:<{width}}  {bar:<{BAR + 2}} {format_bytes(method.estimate.bytes):>8}  {fits}")
    _write(console, "")
    for method in methods:
        if not method.fits:
            _write(console, f"{method.name}: {_changes(method)}")
    if methods[0].estimate.state_bytes < methods[0].estimate.bytes / 2:
        return  # so small a base that its models are not what takes the memory
    one, dpo = methods[0].estimate, next(m for m in methods if m.name == "DPO").estimate
    shared = methods[1].estimate
    frozen = one.roles["reward"].bytes / max(one.roles["policy"].bytes, 1)
    _write(
        console,
        f"\n4 models against 2 is the simple count. By bytes PPO is {one.bytes / dpo.bytes:.1f} times DPO, since a "
        f"frozen model costs {frozen:.0%} of a trained one; and with adapters on one base PPO takes "
        f"{format_bytes(shared.bytes)}, {shared.bytes / one.bytes:.0%} of what it takes with four models.",
    )


def _answer(console: Console, method: Method, gpu: Gpu) -> None:
    share = method.estimate.bytes / gpu.bytes
    verdict = "fits" if method.fits else "does not fit"
    _write(console, f"On {gpu.name}: {verdict} ({share:.0%} of {format_bytes(gpu.bytes)}; up to {USABLE_SHARE:.0%} is "
                    "for tensors, the rest for the driver's context and fragments)")  # fmt: skip
    if method.fits:
        for name, most in (("--batch-size", method.largest_batch), ("--max-length", method.largest_length)):
            _write(console, f"Largest {name} that fits: {NO_LIMIT if most is None else f'{most:,}'}")
    else:
        _write(console, f"It takes {method.gpus:,} of them, split evenly. On one: {_changes(method)}")


def _changes(method: Method) -> str:
    if method.changes is None:
        return "no options make it fit; use a smaller model"
    return "then ".join(
        f"{change.option} ({format_bytes(change.bytes)}; {change.costs}) " for change in method.changes
    ).strip()


def _table(first: str) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1), pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column(first, no_wrap=True)
    return table


def _console() -> Console:
    return Console(file=result(), highlight=False, markup=False, emoji=False)


def _write(console: Console, text: str, style: str | None = None) -> None:
    if "utf" not in console.encoding.lower():
        text = text.translate(PLAIN)
    for line in text.split("\n"):
        lines = textwrap.wrap(line, min(console.width, WIDEST), subsequent_indent="  ", drop_whitespace=True)
        console.print("\n".join(lines), style=style, soft_wrap=True)
