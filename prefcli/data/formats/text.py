"""text: language modelling rows, continued from nothing."""

from __future__ import annotations

from prefcli.data.formats.fields import Raw, others, string_in
from prefcli.data.formats.form import Form
from prefcli.data.row import Row


def _convert(raw: Raw) -> Row:
    return Row("", completion=string_in(raw, "text"), columns=others(raw, "text"))


FORMS = (
    Form(
        "text",
        ("text",),
        "demos",
        "TRL's language-modelling rows",
        ({"text": "The cup is on the shelf."},),
        _convert,
        lambda row: not {"message_id", "parent_id"} <= set(row),  # a turn of OASST's dialogues is no text
        has_prompt=False,
    ),
)
