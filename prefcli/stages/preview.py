"""A preview of the model's input: the rows as tokens, one of them in words, the trained part marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefcli.config.ppo import PPOConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.shared import read_as
from prefcli.config.training import DataConfig
from prefcli.data.checks.found import Finding, shortened
from prefcli.data.checks.kinds import KINDS
from prefcli.data.checks.rendering import of_examples
from prefcli.data.checks.run import check
from prefcli.data.checks.tokens import Tokens
from prefcli.data.encoder import Encoder
from prefcli.data.lengths import length_bias
from prefcli.data.row import Row
from prefcli.data.rows import Example, Examples, Rows
from prefcli.data.tokenising import encode_demo, encode_labelled, encode_pair
from prefcli.errors import DataError
from prefcli.evaluation.prompts import say_kept
from prefcli.models.adapters import planned
from prefcli.models.failures import refuse_unfit
from prefcli.models.loading import class_of
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT, Reporter
from prefcli.stages.inputs import Inputs, refuse_nothing_left
from prefcli.stages.long_rows import refuse_long_answers, refuse_long_rows

OPEN, CLOSE = "⟦", "⟧"


@dataclass
class Preview:
    """Lines for a dry run (lengths, the share that is cut or left out, an example), and what is wrong with the rows."""

    lines: dict[str, str]
    findings: list[Finding]


def preview(inputs: Inputs, reporter: Reporter) -> Preview:
    """Raises DataError: no row is left of those that fit, or the chat template refuses one. ArtifactError: the model
    is not one to train."""
    config = inputs.config
    refuse_unfit(inputs.model, in_4bit=config.load_in_4bit)
    class_of(inputs.model, scorer=inputs.stage.scores)
    encoder = Encoder(load_tokenizer(inputs.model, reporter))
    leave_out_refused(inputs, encoder, reporter)
    adapter = {}
    if config.lora_rank and not inputs.model.is_adapter:
        adapter = {"adapter": planned(inputs.model, config, scorer=inputs.stage.scores)}
    lines, cut, dropped = _PREVIEWS[inputs.stage.purpose](encoder, inputs)
    checked = check(
        list(dict.fromkeys(source["path"] for source in inputs.data.sources)),
        inputs.stage.purpose,
        [config.eval_data] if isinstance(config, DataConfig) and config.eval_data else [],
        of_row=Tokens(encoder, None, _on_prompt(inputs)),
        **read_as(config),
    )
    limits = [Finding("answer cut", cut), Finding("answer cut away", dropped)]
    return Preview(adapter | lines, checked.findings + [finding for finding in limits if finding.count])


def _dialogues_first(rows: Rows) -> Rows:
    """The example is a dialogue of several turns where there is one: what is trained of it shows best there."""
    first = rows.first
    order = sorted(range(len(first)), key=lambda number: not _has_earlier_answers(first[number]))
    return rows.take([*order, *range(len(order), len(rows))])


def _has_earlier_answers(row: Row) -> bool:
    return not isinstance(row.prompt, str) and any(message["role"] == "assistant" for message in row.prompt)


def leave_out_refused(inputs: Inputs, encoder: Encoder, reporter: Reporter) -> None:
    """Leave out the rows that the model's chat template refuses, where that is asked for, and notice how many.

    Else raises DataError with the place of the first one: of dialogues with the same roles one is looked at then.
    """
    seen = set()

    def refusal(row: Row) -> str | None:
        if not inputs.config.skip_bad and not isinstance(row.prompt, str):
            roles = tuple((message["role"], len(message)) for message in row.prompt)
            if (roles, *map(type, row.answers)) in seen:
                return None
            seen.add((roles, *map(type, row.answers)))
        return encoder.refusal(row, prompt_alone=inputs.stage.purpose == "prompts")

    for data in filter(None, (inputs.data, inputs.eval_data)):
        data.rows, note = data.rows.accepted(refusal)
        if note is not None:
            reporter.notice(note)


def say_rendered(inputs: Inputs, encoder: Encoder, reporter: Reporter) -> None:
    """Leave out what the chat template refuses, and notice what looks odd about the first rows as the model is shown
    them. Raises DataError: a row that is refused, or nothing is trained."""
    leave_out_refused(inputs, encoder, reporter)
    for name, example in of_examples(inputs.data.rows, encoder, _on_prompt(inputs)):
        kind = KINDS[name]
        if kind.severity == "error":
            raise DataError(f"{name}: {example}", kind.remedy)
        reporter.notice(f"{name}: {kind.means} ({shortened(example)})")


def _on_prompt(inputs: Inputs) -> bool:
    return isinstance(inputs.config, SFTConfig) and inputs.config.train_on_prompt


def _prompts(encoder: Encoder, inputs: Inputs) -> Made:
    config, rows = inputs.config, _dialogues_first(inputs.data.rows).first
    assert isinstance(config, PPOConfig)
    most = config.max_prompt_length
    lengths = [len(encoder.prompt_ids(row.prompt, most)) for row in rows]
    fits = sum(length <= most for length in lengths)
    say_kept(fits, len(rows), most, SILENT)  # as ppo does
    longest = max(length for length in lengths if length <= most)
    refuse_long_answers(inputs, longest if inputs.data.rows.whole else most)
    return {
        "tokens": f"prompts {_spread(lengths)}; {len(rows) - fits} of {len(rows)} too long, left out",
        "example": encoder.tokenizer.decode(encoder.prompt_ids(rows[0].prompt, most))
        + f"{OPEN}the answer, sampled and trained{CLOSE}",
    }, 0, len(rows) - fits  # fmt: skip


def _demos(encoder: Encoder, inputs: Inputs) -> Made:
    demos, cut, more = _encoded(partial(encode_demo, train_on_prompt=_on_prompt(inputs)), encoder, inputs)
    if encoder.untrained:
        cut += f"; {encoder.untrained} of {encoder.earlier} earlier answers not trained"
    return {
        "tokens": f"rows {_spread([len(d['input_ids']) for d in demos])}; {cut}",
        "example": _marked(encoder.tokenizer.decode, demos[0]["input_ids"], demos[0]["completion_mask"]),
    }, *more  # fmt: skip


def _labelled(encoder: Encoder, inputs: Inputs) -> Made:
    answers, cut, more = _encoded(encode_labelled, encoder, inputs)
    examples = {
        f"example {name}": _answered(encoder, found, "completion_ids")
        for name, label in (("desirable", True), ("undesirable", False))
        if (found := next((a for a in answers if a["label"] is label), None))
    }
    lengths = f"prompts {_lengths(answers, 'prompt_ids')}, answers {_lengths(answers, 'completion_ids')}"
    return {"tokens": f"{lengths}; {cut}", **examples}, *more


def _pairs(encoder: Encoder, inputs: Inputs) -> Made:
    pairs, cut, more = _encoded(encode_pair, encoder, inputs)
    parts = ", ".join(f"{name} {_lengths(pairs, f'{name}_ids')}" for name in ("prompt", "chosen", "rejected"))
    bias = length_bias((len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs)
    return {
        "tokens": f"{parts.replace('prompt ', 'prompts ', 1)}; {cut}",
        "length": bias.text if bias else "",
        "example chosen": _answered(encoder, pairs[0], "chosen_ids"),
        "example rejected": _answered(encoder, pairs[0], "rejected_ids"),
    }, *more  # fmt: skip


def _encoded(
    encode: Callable[..., Any], encoder: Encoder, inputs: Inputs
) -> tuple[list[Example], str, tuple[int, int]]:
    """The first rows as examples, and how many are cut and left out, in words and in numbers."""
    config = inputs.config
    assert isinstance(config, DataConfig)
    found = Examples(_dialogues_first(inputs.data.rows), partial(encode, encoder=encoder, max_length=config.max_length))
    refuse_nothing_left(len(found.first), found.dropped, config.max_length)
    refuse_long_rows(inputs, found)
    rows = len(found.first) + found.dropped
    cut = f"{found.cut} of {rows} cut at --max-length ({found.cut / rows:.1%}), {found.dropped} left out"
    return found.first, cut, (found.cut, found.dropped)


Made = tuple[dict[str, str], int, int]  # lines, how many rows are cut, how many left out
_PREVIEWS = {"demos": _demos, "pairs": _pairs, "labelled": _labelled, "prompts": _prompts}


def _answered(encoder: Encoder, example: dict[str, Any], answer: str) -> str:
    decode = encoder.tokenizer.decode
    return f"{decode(example['prompt_ids'])}{OPEN}{decode(example[answer])}{CLOSE}"


def _lengths(examples: Sequence[dict[str, Any]], part: str) -> str:
    return _spread([len(example[part]) for example in examples])


def _marked(decode: object, ids: list[int], mask: list[int]) -> str:
    """Text with the tokens that the loss reads between ⟦ and ⟧."""
    text, start = "", 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or mask[end] != mask[start]:
            piece = decode(ids[start:end])  # type: ignore[operator]
            text += f"{OPEN}{piece}{CLOSE}" if mask[start] else piece
            start = end
    return text


def _spread(lengths: list[int]) -> str:
    return f"{sum(lengths) / len(lengths):.0f} on average, {max(lengths)} at most"
