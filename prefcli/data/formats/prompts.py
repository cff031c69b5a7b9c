"""prompt alone: what PPO samples from and models are measured on. An answer beside it is not read."""

from __future__ import annotations

from prefcli.data.formats.fields import Raw, others, prompt_in
from prefcli.data.formats.form import Form
from prefcli.data.row import Row


def _convert(raw: Raw) -> Row:
    return Row(prompt_in(raw, "prompt"), columns=others(raw, "prompt", "completion"))


FORMS = (
    Form(
        "prompt",
        ("prompt",),
        "prompts",
        "TRL's prompt-only rows, plain or as messages",
        ({"prompt": "Where is the cup?"}, {"prompt": [{"role": "user", "content": "Where is the cup?"}]}),
        _convert,
    ),
)
