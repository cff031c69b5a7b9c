"""`prefcli mem-estimate`: PPO's four models against DPO's two, one stage or all methods, before anything is run."""

from __future__ import annotations

import json
import sys
from functools import partial

from prefcli.cli.out import draw_picture, picture_file
from prefcli.cli.stdout import print_result
from prefcli.config.memory import MemoryConfig
from prefcli.memory.answer import answer
from prefcli.memory.methods import as_dict
from prefcli.progress import Reporter


def run(config: MemoryConfig) -> None:
    """Print the answer to stdout (one JSON object with --json), and draw it with --plot."""
    plot = picture_file("--plot", config.plot)
    if config.probe:
        from prefcli.cli.mem_probe import probe

        probe(config)
        return
    found = answer(config, _Notes())
    if config.json:
        print_result(json.dumps(as_dict(found), indent=2))
    else:
        from prefcli.cli.mem_answers import show

        show(found)
    if plot:
        from prefcli.report.memory_chart import draw

        draw_picture("--plot", plot, partial(draw, found))


class _Notes(Reporter):
    def notice(self, text: str) -> None:
        print(f"note: {text}", file=sys.stderr)
