"""prompt/chosen/rejected: plain or conversational (TRL), sides that repeat the prompt, and UltraFeedback binarized; the
same with `messages` for the prompt (axolotl)."""

from __future__ import annotations

from typing import Any

from prefcli.data.formats.fields import Raw, answer_in, as_list, messages_in, others, pair, prompt_in
from prefcli.data.formats.form import Form
from prefcli.data.formats.implicit import from_dialogues, is_hh
from prefcli.data.formats.messages import asks
from prefcli.data.row import BadRow, Row


def convert(raw: Raw, asked: str = "prompt") -> Row:
    prompt = prompt_in(raw, asked)
    if isinstance(prompt, str) and isinstance(raw.get("chosen"), list) and len(raw["chosen"]) > 1:
        return _from_repeated(prompt, raw)
    sides = []
    for side in ("chosen", "rejected"):
        value = raw.get(side)
        if isinstance(prompt, list) and isinstance(value, list) and len(value) > len(prompt):
            # The sides repeat the prompt's turns.
            messages = messages_in(raw, side)
            if messages[: len(prompt)] == prompt:
                sides.append(answer_in({side: value[len(prompt) :]}, side))
                continue
        sides.append(answer_in(raw, side))
    return pair(prompt, sides[0], sides[1], others(raw, asked, "chosen", "rejected"))


def _from_repeated(prompt: str, raw: Raw) -> Row:
    """UltraFeedback binarized: the prompt in words, and again as a turn of the whole dialogues in both sides."""
    found = from_dialogues({name: value for name, value in raw.items() if name != "prompt"})
    assert isinstance(found.prompt, list)
    if not any(turn["role"] == "user" and turn["content"].strip() == prompt.strip() for turn in found.prompt):
        raise BadRow("prompts differ", "'chosen' and 'rejected' are dialogues in which no user says the 'prompt'")
    return found


def _answers_messages(row: Raw) -> bool:
    """Whether both sides answer `messages`, alone or behind them; other dialogues are read without them."""
    return asks(row) and all(_answers(as_list(row[side]), as_list(row["messages"])) for side in ("chosen", "rejected"))


def _answers(value: Any, messages: list[Any]) -> bool:
    if isinstance(value, list):
        return value[: len(messages)] == messages or (len(value) == 1 and _answers(value[0], messages))
    if isinstance(value, dict):
        return value.get("role") == "assistant"
    return not is_hh(value)


QUESTION = {"role": "user", "content": "Where is the cup?"}
GOOD = {"role": "assistant", "content": "On the shelf."}
BAD = {"role": "assistant", "content": "No idea."}
FORMS = (
    Form(
        "prompt/chosen/rejected",
        ("prompt", "chosen", "rejected"),
        "pairs",
        "TRL's preference rows, plain or as messages; UltraFeedback binarized",
        (
            {"prompt": "Where is the cup?", "chosen": "On the shelf.", "rejected": "No idea."},
            {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
            {"prompt": [QUESTION], "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
            {"prompt": "Where is the cup?", "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
        ),
        convert,
    ),
    Form(
        "messages/chosen/rejected",
        ("messages", "chosen", "rejected"),
        "pairs",
        "axolotl's preference rows: a dialogue and two messages that answer it",
        ({"messages": [QUESTION], "chosen": GOOD, "rejected": BAD},),
        lambda raw: convert(raw, "messages"),
        _answers_messages,
    ),
)
