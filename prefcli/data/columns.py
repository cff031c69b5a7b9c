"""Columns that belong to a row's dialogue: the system's message, tools, pictures, more of the question."""

from __future__ import annotations

from dataclasses import replace

from prefcli.data.formats.fields import listed, not_text
from prefcli.data.row import BadRow, Row, has_parts, whole

PICTURES = ("image", "images", "video", "videos", "audio", "audios")


def unread_system(row: Row) -> str:
    """The content of a column `system`, where the prompt does not begin with it."""
    system = row.columns.get("system")
    if not isinstance(system, str) or not system.strip():
        return ""
    begins = isinstance(row.prompt, list) and row.prompt[0] == {"role": "system", "content": system}
    return "" if begins else system


def with_system(row: Row) -> Row:
    """The row with its column `system` as the first message of a dialogue that has none of its own."""
    system = unread_system(row)
    if system and isinstance(row.prompt, list) and row.prompt[0]["role"] != "system":
        return whole(replace(row, prompt=[{"role": "system", "content": system}, *row.prompt]))
    return row


def with_tools(row: Row) -> Row:
    """The row with its column `tools` in its dialogue. Raises BadRow: a plain prompt with calls; pictures or sound."""
    if isinstance(row.prompt, list) and (tools := row.columns.get("tools")):
        row.prompt = [row.prompt[0] | {"tools": listed(tools, "'tools'")}, *row.prompt[1:]]
    if isinstance(row.prompt, str) and any(map(has_parts, row.answers)):
        raise BadRow(
            "wrong type", "an answer that calls tools, or has thoughts apart, needs a prompt of messages (--as-chat)"
        )
    for name in PICTURES:
        if row.columns.get(name) not in (None, "", []):
            raise not_text(f"the column {name!r} is filled")
    return row


def more_in(row: Row, column: str) -> bool:
    """Whether a column holds more of the question than its prompt."""
    text = row.columns.get(column)
    return isinstance(text, str) and text.strip() not in row.prompt_text
