"""Findings in a row as the model is shown it: begin and end tokens, the template's turns, the loss mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from prefcli.data.row import CALLS, THOUGHTS, Message, Row, answer_of, message_of
from prefcli.errors import DataError

EXAMPLES = 8  # rows looked at: dialogues with and without a system message or earlier turns
LOOKED_AT = 8192  # tokens of each


def of_examples(rows: Iterable[Row], encoder: Any, train_on_prompt: bool = False) -> Iterator[tuple[str, str]]:
    """(kind of finding, what was seen) of the first rows, each kind once. `encoder` is a tokenising.Encoder.

    Raises DataError: the chat template refuses one of them.
    """
    seen = set()
    for row in islice(rows, EXAMPLES):
        for name, example in of_row(row, encoder, train_on_prompt):
            if name not in seen:
                seen.add(name)
                yield name, example


def of_row(row: Row, encoder: Any, train_on_prompt: bool = False) -> Iterator[tuple[str, str]]:
    """All that is wrong with one row as it is rendered."""
    tokenizer = encoder.tokenizer
    ids = encoder.prompt_ids(row.prompt, LOOKED_AT)
    yield from _begin(row, ids, encoder)
    for answer in (row.completion, row.chosen, row.rejected):
        if answer is None:
            continue
        answered = encoder.completion_ids(row.prompt, answer, LOOKED_AT)
        if (ends := answered.count(tokenizer.eos_token_id)) > 1:
            yield "doubled EOS", f"{tokenizer.eos_token} {ends} times in the answer: {answer}"
        if answered == [tokenizer.eos_token_id]:
            yield "nothing trained", f"of the answer {answer!r} only {tokenizer.eos_token} is left"
        if not isinstance(row.prompt, str):
            yield from _template(row.prompt, answer, encoder)
    if not isinstance(row.prompt, str):
        yield from _not_written(row, encoder)
    if row.completion is not None:
        met = encoder.untrained
        ids, mask = encoder.demo(row, train_on_prompt, LOOKED_AT)
        yield from of_mask(ids, mask, train_on_prompt)
        if missed := encoder.untrained - met:
            yield "earlier answer not trained", f"{missed} in: {encoder.tokenizer.decode(ids)}"


def of_mask(ids: list[int], mask: list[int], train_on_prompt: bool) -> Iterator[tuple[str, str]]:
    """Findings in a loss mask (1 where the loss reads)."""
    if not any(mask):
        yield "nothing trained", f"all {len(ids)} tokens are masked"
    if all(mask) and not train_on_prompt:
        yield "all trained", f"none of {len(ids)} tokens is masked"


def _begin(row: Row, ids: list[int], encoder: Any) -> Iterator[tuple[str, str]]:
    bos, eos = encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id
    if bos is None or bos == eos:
        return
    if (begins := ids.count(bos)) > 1:
        yield "doubled BOS", f"{encoder.tokenizer.bos_token} {begins} times in: {encoder.tokenizer.decode(ids)}"
    if begins == 0 and bos in encoder.first:
        yield "missing BOS", encoder.tokenizer.decode(ids)


def _template(prompt: Any, answer: str, encoder: Any) -> Iterator[tuple[str, str]]:
    before, whole = encoder.render(prompt), encoder.render(prompt, answer)
    if not whole.startswith(before):
        same = next((i for i, (a, b) in enumerate(zip(before, whole)) if a != b), min(len(before), len(whole)))
        yield "prompt changes", f"{before[same:][:40]!r} becomes {whole[same:][:40]!r}"
    said = answer.strip()
    if (at := whole.rfind(said)) >= 0:
        closing = whole[at + len(said) :].strip()
        if not closing:
            yield "turn not closed", f"…{whole[-60:]}"
        elif encoder.tokenizer.eos_token not in closing:
            yield "missing EOS", f"{closing!r}, and the end token is {encoder.tokenizer.eos_token!r}"


def _not_written(row: Row, encoder: Any) -> Iterator[tuple[str, str]]:
    """Tools, calls and thoughts that make no difference to what the template writes."""
    assert not isinstance(row.prompt, str)
    for messages in [[*row.prompt, message_of(answer)] for answer in row.answers] or [row.prompt]:
        for name in ("tools", *CALLS, *THOUGHTS):
            without = [{key: part for key, part in message.items() if key != name} for message in messages]
            if without != messages and _rendered(encoder, without) == _rendered(encoder, messages):
                yield "not in the template", name


def _rendered(encoder: Any, messages: list[Message]) -> str | None:
    last = messages[-1]["role"] == "assistant"
    try:
        return str(encoder.render(messages[:-1], answer_of(messages[-1])) if last else encoder.render(messages))
    except DataError:  # without calls, say, their results are refused: so the template reads them
        return None
