"""`prefcli sample`: answers to prompts as JSON lines, and a summary on stderr."""

from __future__ import annotations

import json

from prefcli.cli.console import print_result, reporter
from prefcli.cli.out import out_file, refuse_several, rows_shown
from prefcli.config.sample import SampleConfig


def run(config: SampleConfig) -> None:
    """With --out, stdout carries the file's path; with --json the summary; else the rows."""
    out = out_file("--out", config.out, {"one of the files of --prompts": config.prompts})
    refuse_several(out)
    from prefcli.evaluation.sample import sample
    from prefcli.evaluation.together import share

    report = reporter(config.quiet)
    result = sample(config, report, share=share(), out=out, show=rows_shown(out, config.json))
    if not result:
        return
    measured = (
        f"{result['rows']:,} to {result['prompts']:,} prompts; {result['length']:.1f} tokens, "
        f"{result['ended']:.0%} ended by themselves, distinct-2 {result['distinct_2']:.2f}, {result['seconds']:.1f} s"
    )
    report.plan({f"answers of {result['ref']}": measured})
    if config.json:
        kept = ("empty", "length", "distinct_2", "ended", "seconds")
        summary = {"rows": result["rows"], "out": config.out} | {name: result[name] for name in kept}
        print_result(json.dumps(summary, ensure_ascii=False))
    elif out:
        print_result(str(out))
