"""A reward model's chat template, ended where its scores are read.

A score is read at the end token of the answer, in training and everywhere here. Many templates (ChatML's) write a
newline behind it, and transformers pools at the last token: `apply_chat_template` and the model together would read the
score at a newline, which was never trained. So what train-rm and `export` save with a reward model is its template and,
around it, the few words that stop at the end token. Prompts, and all that this project renders, come out the same.
"""

from __future__ import annotations

import json
from typing import Any

from prefcli.data.encoder import Encoder

BEFORE, AFTER = "{% set whole_dialogue %}", "{% endset %}"
NEWLINE = "{# the template ended with a newline #}"  # jinja drops one there, and would not within a block
# The end token of an earlier turn is not the answer's own: then the answer's text follows it.
_ENDED = (
    "{%% if messages and messages[-1]['role'] == 'assistant' and not add_generation_prompt %%}"
    "{%% set parts = whole_dialogue.rsplit(%(eos)s, 1) %%}"
    "{%% set answer = messages[-1]['content'] | string | trim %%}"
    "{%% if parts | length == 2 and not (answer and answer in parts[1]) %%}{{ parts[0] + %(eos)s }}"
    "{%% else %%}{{ whole_dialogue + %(eos)s }}{%% endif %%}"
    "{%% else %%}{{ whole_dialogue }}{%% endif %%}"
)
PROBES = (
    [{"role": "user", "content": "Where is the cup?"}, {"role": "assistant", "content": "On the shelf."}],
    [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello, what is it?"},
        {"role": "user", "content": "Where is the cup?"},
        {"role": "assistant", "content": "It is"},
    ],
)


def ended(template: str, eos: str) -> str:
    """`template` with a dialogue that ends with an answer cut behind, or else given, the end token `eos`."""
    lead = "\n" if template[:1] == "\n" else ""  # jinja drops one behind a block
    last = NEWLINE if template[-1:] == "\n" else ""
    words = _ENDED % {"eos": json.dumps(eos, ensure_ascii=False)}
    return BEFORE + lead + template.removesuffix("\n") + AFTER + last + words


def inner(template: str) -> str:
    """The template that `ended` was given; another one as it is."""
    if not template.startswith(BEFORE):
        return template
    body, _, words = template.removeprefix(BEFORE).rpartition(AFTER)
    return body.removeprefix("\n") + ("\n" if words.startswith(NEWLINE) else "")


def end_at_the_score(tokenizer: Any) -> str | None:
    """Have the tokenizer's template end where scores are read, where it does not yet; None, or why it still does not.

    Several templates by name are left as they are. Checked on dialogues: `apply_chat_template` gives the very tokens
    that are trained and scored.
    """
    template = tokenizer.chat_template
    if template is None or (found := _differs(tokenizer)) is None:
        return None
    if not isinstance(template, str):  # several, by name: which of them a user takes is not known here
        return found
    tokenizer.chat_template = ended(template, tokenizer.eos_token)
    if (found := _differs(tokenizer)) is None:
        return None
    tokenizer.chat_template = template
    return found


def _differs(tokenizer: Any) -> str | None:
    """None where plain use of the template gives the tokens that are scored; else what it is that it does not."""
    encoder = Encoder(tokenizer)
    for messages in PROBES:
        try:
            meant = encoder.prompt_ids(messages[:-1]) + encoder.completion_ids(messages[:-1], messages[-1]["content"])
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # the template's own: it refuses the roles, say
            return f"the chat template refuses a dialogue ({error})"
        if encoder.text_ids(text) != meant:
            return f"the chat template ends a dialogue with {text[-20:]!r}, or splits it into other tokens"
    return None
