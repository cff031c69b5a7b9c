"""Alpaca, as LLaMA-Factory reads it: instruction, input, output, system, history; with chosen/rejected or kto_tag.

The question is the instruction and, on a line of its own, the input. It is a user's message: the model's chat template
is applied, and not the text around it that the first Alpaca models were trained with.
"""

from __future__ import annotations

from prefcli.data.formats.fields import Raw, answer_in, label_in, optional_in, others, pair, string_in
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Message, Row

_PROMPT = ("instruction", "input", "system", "history")


def dialogue(raw: Raw, question: str, further: str | None = None) -> list[Message]:
    """The system's message, the turns of `history`, and the question."""
    text = string_in(raw, question)
    if further is not None and (more := optional_in(raw, further)):
        text = f"{text}\n{more}"
    messages: list[Message] = []
    if system := optional_in(raw, "system"):
        messages.append({"role": "system", "content": system})
    history = raw.get("history")
    if not isinstance(history, list | None):
        raise BadRow("wrong type", "'history' must be a list of [question, answer]")
    for turn in history or []:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise BadRow("wrong type", "'history' must hold pairs [question, answer] of text")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return [*messages, {"role": "user", "content": text}]


def _prompt(raw: Raw) -> list[Message]:
    return dialogue(raw, "instruction", "input")


def _demo(raw: Raw) -> Row:
    return Row(_prompt(raw), completion=answer_in(raw, "output"), columns=others(raw, *_PROMPT, "output"))


def _labelled(raw: Raw) -> Row:
    row = _demo(others(raw, "kto_tag"))
    row.label = label_in(raw, "kto_tag")
    return row


def _pair(raw: Raw) -> Row:
    columns = others(raw, *_PROMPT, "chosen", "rejected")
    return pair(_prompt(raw), answer_in(raw, "chosen"), answer_in(raw, "rejected"), columns)


def _listed(raw: Raw) -> Row:
    sides = raw.get("output")
    if not isinstance(sides, list) or len(sides) != 2:
        raise BadRow("wrong type", "'output' must be a list of two answers, the better one first")
    chosen, rejected = (answer_in({"output": side}, "output") for side in sides)
    return pair(_prompt(raw), chosen, rejected, others(raw, *_PROMPT, "output"))


_ASKED = {"instruction": "Where is the cup?", "input": ""}
FORMS = (
    Form(
        "Alpaca pairs",
        ("instruction", "chosen", "rejected"),
        "pairs",
        "LLaMA-Factory's Alpaca preference rows",
        ({**_ASKED, "chosen": "On the shelf.", "rejected": "No idea."},),
        _pair,
        lambda row: not any(isinstance(row[side], list) and len(row[side]) > 1 for side in ("chosen", "rejected")),
    ),
    Form(
        "Alpaca, two outputs",
        ("instruction", "output"),
        "pairs",
        "LLaMA-Factory's former preference rows: the better output first",
        ({**_ASKED, "output": ["On the shelf.", "No idea."]},),
        _listed,
        lambda row: isinstance(row["output"], list),
    ),
    Form(
        "Alpaca/kto_tag",
        ("instruction", "output", "kto_tag"),
        "labelled",
        "LLaMA-Factory's Alpaca KTO rows",
        ({**_ASKED, "output": "On the shelf.", "kto_tag": True},),
        _labelled,
    ),
    Form(
        "Alpaca",
        ("instruction", "output"),
        "demos",
        "instruction, input and output; optionally system and history",
        ({**_ASKED, "output": "On the shelf."},),
        _demo,
        lambda row: not isinstance(row["output"], list),
    ),
    Form(
        "Alpaca prompts",
        ("instruction",),
        "prompts",
        "an instruction, and its input, alone",
        (_ASKED,),
        lambda raw: Row(_prompt(raw), columns=others(raw, *_PROMPT, "output")),
    ),
)
