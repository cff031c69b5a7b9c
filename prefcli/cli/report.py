"""`prefcli report REF… -o report.html`: one page about finished runs, and what their models answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prefcli.artifacts.manifest import is_artifact
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result, reporter
from prefcli.config.base import option, typed_options
from prefcli.config.compare import CompareConfig
from prefcli.config.report import ReportConfig
from prefcli.errors import PrefcliError, SurroundingsError, UsageError
from prefcli.files import write_atomically
from prefcli.progress import Reporter
from prefcli.report.criteria import read_comparison
from prefcli.report.facts import gather
from prefcli.report.mark import is_ours

SHARED = ("prompts", "reward", "max_prompts", "max_new_tokens", "temperature", "seed", "runs")  # with compare
ANSWERING = ("reward", "against", "max_prompts", "max_new_tokens", "temperature", "seed", "samples")


def run(config: ReportConfig) -> None:
    _refuse_without_prompts(config)
    out = _output(config.output)
    if out.exists() and not config.force and not is_ours(out):
        raise UsageError(
            f"--output {config.output} exists already and is not a report of prefcli",
            "name another file, or replace it with --force",
        )
    comparison = read_comparison(config.comparison) if config.comparison is not None else None
    why_not = None
    store = Store(config.runs)
    references = [resolve(text, store) for text in config.refs]
    facts = gather(references, store)
    if facts.outside and not config.prompts:
        raise UsageError(
            f"no artifact describes {facts.outside[0]}: only its answers could be reported",
            "give artifacts (see: prefcli ls), or add --prompts FILE",
        )
    report = reporter(config.quiet)
    for reference in references:
        if reference.note:
            report.notice(reference.note)
    from prefcli.report.evaluated import measure
    from prefcli.report.lengths import data_files
    from prefcli.report.page import page

    evaluation = measure(config, references, facts, report) if config.prompts else None
    if comparison is None:
        comparison, why_not = _compared(config, references, report)
    data = data_files(facts, store, report)
    text = page(facts, data=data, evaluation=evaluation, comparison=comparison, why_not=why_not, again=_again(config))
    try:
        write_atomically(out, text)
    except OSError as error:
        raise SurroundingsError(f"--output {out}: {error.strerror or error}", "choose another place") from error
    if config.json:
        found = {"path": config.output, **facts.as_dict(), "evaluation": evaluation, "comparison": comparison}
        print_result(json.dumps(found, ensure_ascii=False))
    else:
        print_result(config.output)


def _compared(
    config: ReportConfig, references: list[Reference], report: Reporter
) -> tuple[dict[str, Any] | None, str | None]:
    """The comparison of the policies that are named, or why there is none; neither where one alone is."""
    policies = {r.artifact.ref for r in references if r.artifact is not None and not r.artifact.manifest.scores}
    refs = [reference.text for reference in references if reference.shown in policies]
    if len(policies) < 2:
        return None, None
    from prefcli.comparison.run import compare

    given = {name: getattr(config, name) for name in SHARED}
    try:
        return compare(CompareConfig(refs=list(dict.fromkeys(refs)), **given), report), None
    except PrefcliError as error:  # routes that cannot be compared can be reported all the same
        return None, error.message


def _output(text: str) -> Path:
    """Raises UsageError: a directory, no directory for it, in an artifact. SurroundingsError: no permission."""
    out = Path(text)
    if not text or "\0" in text:
        raise UsageError(f"--output {text!r}: no file can have that name")
    if os.path.isdir(out):
        raise UsageError(f"--output {text} is a directory", f"name a file: --output {out / 'report.html'}")
    if not os.path.isdir(out.parent):
        raise UsageError(f"--output {text}: there is no directory {out.parent}", f"make it: mkdir -p {out.parent}")
    if any(is_artifact(above) for above in out.resolve().parents):
        raise UsageError(f"--output {text} lies in an artifact, which stays as it was written", "choose another place")
    if not os.access(out.parent, os.W_OK):
        raise SurroundingsError(f"--output {text}: no permission to write in {out.parent}", "choose another place")
    return out


def _refuse_without_prompts(config: ReportConfig) -> None:
    """Raise UsageError where an option of the answers is given and no prompts are."""
    given = [name for name in ANSWERING if getattr(config, name) != getattr(_defaults(config), name)]
    if given and not config.prompts:
        raise UsageError(f"{option(given[0])} is for --prompts", "add --prompts held_out_prompts.jsonl")


def _defaults(config: ReportConfig) -> ReportConfig:
    return ReportConfig(refs=config.refs)


def _again(config: ReportConfig) -> list[str]:
    """The words that make this page again."""
    words, plain = ["prefcli", "report", *config.refs], _defaults(config)
    for name in typed_options(ReportConfig):
        value = getattr(config, name)
        if name in ("refs", "force", "json", "quiet", "debug", "config") or value == getattr(plain, name):
            continue
        words += [
            word for item in (value if isinstance(value, list) else [value]) for word in (option(name), str(item))
        ]
    return words
