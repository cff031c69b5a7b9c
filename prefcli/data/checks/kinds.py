"""Everything that a check may find: its name, how bad it is, what it means and what to do. docs/data-check.md shows it.

An error is a row that cannot be trained on: --skip-bad leaves it out. A caution is something that trains, and perhaps
not as you think. Thresholds are beside the checks that use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """One kind of finding."""

    severity: Literal["error", "caution"]
    means: str
    remedy: str


OTHER_TEMPLATE = "use a model whose chat template takes such dialogues"
_REPAIR = "repair the rows, or leave them out with --skip-bad"

KINDS: dict[str, Kind] = {
    # Each row alone (rows.py)
    "not UTF-8": Kind("error", "bytes that are not text, or half of a character", "convert the file to UTF-8"),
    "broken line": Kind("error", "a line that is not a JSON object, or whose cells do not match the header", _REPAIR),
    "missing column": Kind("error", "a column that the format needs is missing", "--map OURS=THEIRS names it"),
    "wrong type": Kind("error", "a column holds a value that the format does not allow", _REPAIR),
    "empty": Kind("error", "a prompt or an answer without text", _REPAIR),
    "not text": Kind(
        "error",
        "images, audio or video, which are not read: what remains is not what was answered",
        "leave such rows out with --skip-bad; without those columns the text alone is trained",
    ),
    "same sides": Kind("error", "both answers of a pair are the same: nothing to prefer", _REPAIR),
    "prompts differ": Kind("error", "the sides of a pair answer different prompts", _REPAIR),
    "bad role": Kind("error", "a role that is not system, developer, user, assistant or tool", _REPAIR),
    "bad turns": Kind("error", "a dialogue that does not end where it must, or has no question", _REPAIR),
    "bad label": Kind("error", "a label or a vote that says neither", "write true or false; a, b or tie"),
    "not to be trained": Kind(
        "error", "an answer that its own message excludes, by weight 0 or loss false", "leave it out with --skip-bad"
    ),
    "does not fit": Kind("error", "a row that does not have the format of the file's first row", _REPAIR),
    "tie": Kind("caution", "answers of which none is better, by a vote or by their scores: left out", "nothing"),
    "unread columns": Kind(
        "caution",
        "columns that look like labels, votes, ratings, tools or images, and that the format does not read",
        "--map names what they are, if they matter",
    ),
    "empty turn": Kind("caution", "a message before the last one without text or calls", "fill it in, or leave it out"),
    "turn order": Kind(
        "caution",
        "turns that do not alternate (two answers in a row, say), or a system message that is not the first: many chat "
        "templates refuse them",
        "join turns of one role; --model M tells whether its template takes them",
    ),
    "broken characters": Kind(
        "caution", "the text contains U+FFFD: it was once read in a wrong encoding", "make the file again"
    ),
    "prompt repeated": Kind(
        "caution", "an answer begins with its whole prompt: the model learns to repeat it", "cut it off the answers"
    ),
    "scores against labels": Kind(
        "caution", "the rejected answer has the higher score in the row's own columns", "ask which of the two is right"
    ),
    # All rows together (gathered.py)
    "duplicates": Kind("caution", "the same row once more: it counts twice", "leave them out, unless it is meant"),
    "labelled both ways": Kind(
        "caution",
        "the same answers, labelled one way here and the other way there: at least one of the labels is wrong",
        "decide, or expect noise: dpo --loss robust, ipo; docs/advise.md",
    ),
    "one prompt often": Kind(
        "caution", "a single prompt makes up a large part of the rows", "remove some of its rows, or add other prompts"
    ),
    "in held-out too": Kind(
        "caution", "the prompt is held out too: what is measured there is memorisation", "prefcli data split"
    ),
    "nearly in held-out": Kind(
        "caution", "the same but for case and white space: what is measured there is memorisation", "prefcli data split"
    ),
    "longer chosen": Kind(
        "caution",
        "chosen answers are longer: a model that learns this alone wins on these pairs",
        "dpo --length-normalise, ppo --length-penalty, or pairs of like length",
    ),
    "one kind of label": Kind("error", "every row is labelled alike: kto learns from both kinds", "add the other kind"),
    "constant margins": Kind("caution", "the margin is the same in every row, so it says nothing", "leave it out"),
    # With a tokenizer (tokens.py)
    "template refuses": Kind(
        "error",
        "the model's chat template refuses the dialogue, or leaves out a message of it",
        f"{OTHER_TEMPLATE}, or leave such rows out with --skip-bad",
    ),
    "answer cut": Kind("caution", "longer than --max-length: the answer's end is not trained", "raise --max-length"),
    "answer cut away": Kind(
        "caution", "--max-length leaves nothing of the answer, or nothing that tells two apart: the row is left out",
        "raise --max-length",
    ),
    # The rendered example (rendering.py)
    "doubled BOS": Kind("caution", "a text has more than one BOS, from the template or from the rows", "take one out"),
    "missing BOS": Kind(
        "caution", "the tokenizer begins every text with BOS, and the template does not", "add bos_token to it"
    ),
    "doubled EOS": Kind("caution", "an answer holds the end token in its middle", "take it out of the answers"),
    "missing EOS": Kind(
        "caution",
        "the template closes an answer with something other than the end token, which is then added after it",
        "name the token that closes it as eos_token in tokenizer_config.json",
    ),
    "turn not closed": Kind(
        "caution",
        "the template adds nothing after an answer: earlier ones in a dialogue have no end",
        "let the template write eos_token after each answer",
    ),
    "prompt changes": Kind(
        "caution",
        "the template writes the prompt differently once an answer follows (for example without thoughts): "
        "training uses the prompt as sampling writes it",
        "nothing, if that is meant",
    ),
    "not in the template": Kind(
        "caution", "a part of the messages that the model's chat template does not write", "nothing, if that is meant"
    ),
    "earlier answer not trained": Kind(
        "caution", "the template writes an earlier answer of a dialogue so that its tokens are not found",
        "cut such dialogues after each answer",
    ),
    "nothing trained": Kind(
        "error", "the loss reads no token of the answer: its mask is all zeros, or on the end token alone",
        "look at the template and at --max-length",
    ),
    "all trained": Kind("caution", "the loss reads the prompt too: its mask is all ones", "look at the template"),
}  # fmt: skip
