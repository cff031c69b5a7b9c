"""All formats in one table, and which of them a file's first row is of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.formats import (
    alpaca,
    completions,
    implicit,
    messages,
    openai,
    pairs,
    prompts,
    ranked,
    rewardbench,
    sharegpt,
    swift,
    text,
    votes,
)
from prefcli.data.formats.fields import CENSURE, GRADES, NO_PRAISE, PRAISE, VOTES, as_list, score_of, words_of
from prefcli.data.formats.form import Form
from prefcli.data.records import renamed
from prefcli.data.row import Row, is_verdict, label_of
from prefcli.errors import DataError

# Of several that fit the first is taken: what many tools write, then what one does; the plainest last.
FORMS: tuple[Form, ...] = (
    *messages.FORMS,
    *completions.FORMS,
    *rewardbench.FORMS,
    *pairs.FORMS,
    *openai.FORMS,
    *swift.FORMS,
    *sharegpt.FORMS,
    *alpaca.FORMS,
    *ranked.FORMS,
    *votes.FORMS,
    *implicit.FORMS,
    *prompts.FORMS,
    *text.FORMS,
)
READ = {
    "system",
    "history",
    "input",
    "tools",
    "margin",
    *votes.KNOWN,
    *(name for form in FORMS for name in form.columns),
}
ANSWERS = ("completion", "answer", "response", "output", "reply", "generation", "text", "model_output",
           "model_response", "assistant")  # fmt: skip
_MESSAGE = {"role", "content"}
KINDS: tuple[Purpose, ...] = ("pairs", "labelled", "demos", "prompts")
# What rows are taken for a purpose: the first kind that is there.
TAKEN: dict[Purpose, tuple[Purpose, ...]] = {
    "demos": ("demos", "pairs"),
    "pairs": ("pairs",),
    "labelled": ("labelled", "pairs"),
    "prompts": ("pairs", "demos", "prompts"),
}
WHY = {
    "demos": "a file's own answers go before the chosen side of its pairs",
    "labelled": "a file's own labels go before its pairs",
    "prompts": "the prompts of pairs go first, then those of dialogues",
}
EXPECTED = {
    "demos": "messages, or prompt and completion, or text (or pairs, whose chosen side is taken)",
    "pairs": "prompt, chosen and rejected, or whole dialogues in chosen and rejected, or prompt, a, b and winner",
    "labelled": "prompt, completion and label, or messages and label (or pairs, each side of which is taken)",
    "prompts": "prompt (or any row that holds one: messages, pairs)",
}


@dataclass(frozen=True)
class Recognised:
    """The format that a file's rows are of, and how they become rows. `note`: which was taken of several, and why."""

    form: Form
    name: str  # with what is taken of it
    purpose: Purpose
    convert: Callable[[dict[str, Any]], Row]
    note: str | None = None


def recognise(
    where: str, row: dict[str, Any], purpose: Purpose | None = None, rows: Sequence[dict[str, Any]] = ()
) -> Recognised:
    """The format of a file by its first row. Without a purpose its rows are taken for what they are. `rows` are the
    first ones, of which a hint may speak.

    Raises DataError: no format that gives such rows has these columns.
    """
    fitting = _that_are_answered([form for form in FORMS if form.is_that_of(row)], rows)
    passed_over = fitting if purpose is None else []
    if purpose is None:
        purpose = _kind(fitting, row)
    alone = [form for form in FORMS if form.gives == "prompts" and form.has_columns(row)]
    if purpose == "prompts":
        answered = [form for form in fitting if form.gives != "prompts" and form.has_prompt]
        fitting = answered + [form for form in alone if not any(_prompt_alone(form, other) for other in answered)]
    fitting = [form for kind in TAKEN[purpose] for form in fitting if form.gives == kind]
    if not fitting:
        found = ", ".join(sorted(map(str, row))) or "none"
        raise DataError(
            f"{where}: expected columns {EXPECTED[purpose]}; found: {found}",
            _nearest(rows or [row], purpose)
            + "rename columns with --map OURS=THEIRS; prefcli data formats lists all formats",
        )
    form = fitting[0]
    if purpose == "prompts":
        # Dialogues with their answer and without it may take turns: what reads the question alone reads both.
        form = next((other for other in alone if _prompt_alone(other, form)), form)
    note = _note(form.name, fitting, passed_over, purpose)
    form = form.settled(rows or [row])
    name, convert = form.name, form.convert
    if purpose == "demos" and form.gives == "pairs":
        # as the DPO paper does where there are pairs alone (arXiv 2305.18290, section 6)
        name = f"{name}, the chosen side"
        convert = chosen_side(form.convert)
    return Recognised(form, name, purpose, convert, note)


def chosen_side(convert: Callable[[dict[str, Any]], Row]) -> Callable[[dict[str, Any]], Row]:
    """The conversion of a pair to a demonstration: its chosen answer."""
    return lambda raw: replace(pair := convert(raw), completion=pair.chosen)


def _note(taken: str, fitting: list[Form], passed_over: list[Form], purpose: Purpose) -> str | None:
    """Which of several fitting formats is taken, the first, under its name, and why.

    `passed_over`: where no command says what is wanted, all that fit, whatever rows they give.
    """
    form = fitting[0]
    rivals = [other for other in fitting[1:] if not _nested(form, other)]
    strangers = [
        other
        for other in passed_over
        if other.gives not in (form.gives, "prompts") and other.has_prompt
        if other not in fitting and not _nested(form, other)
    ]
    if not (rivals or strangers):
        return None
    if not rivals:
        why = "pairs go first, then labelled answers"
    elif rivals[0].gives != form.gives:
        why = WHY[purpose]
    else:
        why = "of two such formats the more common one comes first"
    names = " and ".join(other.name for other in rivals + strangers)
    return f"read as {taken}, though its columns also fit {names}: {why}"


def _that_are_answered(fitting: list[Form], rows: Sequence[dict[str, Any]]) -> list[Form]:
    """The formats without those of demonstrations that the first rows are not, since they end before the answer."""
    asked = {form.columns for form in fitting if form.gives == "prompts" and all(map(form.is_that_of, rows))}
    return [form for form in fitting if form.gives != "demos" or form.columns not in asked]


def _kind(fitting: list[Form], row: dict[str, Any]) -> Purpose:
    """The kind of a file's rows; prompts where no format fits, whose reader then reports the error."""
    found = {form.gives for form in fitting if form.has_prompt} or {form.gives for form in fitting}
    if row.get("label") is None and row.get("kto_tag") is None:
        found -= {"labelled"}  # a column of nulls labels nothing
    return next((kind for kind in KINDS if kind in found), "prompts")


def implied(rows: Sequence[dict[str, Any]], purpose: Purpose | None) -> dict[str, str]:
    """What --map would have to say for the first rows to be of a format: a column of ours → theirs; {} where their own
    names do, or nothing would. Case, blanks and what stands between words do not matter, chosen_response is what chosen
    is, and an answer with a label beside its prompt is a labelled one, whatever the three are called."""
    row, spelt = _filled(rows), _spelt(rows[0])
    labelled = _labelled(rows, sure=True) if purpose in ("labelled", "demos", None) else ()
    tried = [{}, spelt, spelt | _sides(row), *labelled]
    ranks = [_rank(renamed(row, names), purpose) for names in tried]
    return tried[ranks.index(min(ranks))]


def advice(rows: Sequence[dict[str, Any]], purpose: Purpose | None, already: Mapping[str, str] | None = None) -> str:
    """The --map by which rows with a prompt and an answer are labelled answers, else demonstrations; "" for others.
    `already` are the names by which they were read, ours → theirs."""
    row = _filled(rows)
    found = (names for names in _labelled(rows) if _rank(renamed(row, names), "labelled") == 0)
    if names := next(found, None):
        return maps(names)
    questions, answers = _of(row, votes.PROMPTS), _of(row, ANSWERS)
    if not (questions and answers):
        return ""
    numbers = [name for name in _like_labels(row) if _numbers(rows, name)]
    against = [name for name in _against(row) if _numbers(rows, name)]
    if purpose != "demos" and (numbers or against):
        asked = [one.get(questions[0]) for one in rows]
        if any(one == other for one, other in zip(asked, asked[1:])):
            names = {"prompt": questions[0], "response": answers[0], "helpfulness": (*numbers, "COLUMN")[0]}
            names = {ours: (already or {}).get(theirs, theirs) for ours, theirs in names.items()}
            told = f"{maps(names) or 'no --map'} makes pairs of the answers to one prompt by these numbers"
            return told if numbers else f"{told}, of which the highest is the best (of {against[0]!r} it is not)"
        return "numbers are not labels: write true and false in a column of its own, then --map label=COLUMN"
    passage = next((name for name in ("input", "context") if any(one.get(name) for one in rows)), None)
    if questions[0] == "instruction" and passage:
        return maps({"instruction": "instruction", "input": passage, "output": answers[0]})
    return maps({"prompt": questions[0], "completion": answers[0]})


def maps(names: Mapping[str, str]) -> str:
    """--map as it is typed."""
    return " ".join(f"--map {shlex.quote(f'{ours}={theirs}')}" for ours, theirs in names.items() if ours != theirs)


def doubtful(names: Mapping[str, str]) -> list[str]:
    """Notes on a --map (ours → theirs) of a rank and the like as a score or a vote, which turns each pair round."""
    return [
        f"{maps({ours: theirs})} takes the higher number, or the answer that it names, for the better one"
        for ours, theirs in names.items()
        if (words_of(ours) & GRADES or ours in votes.WINNERS) and _no_praise(theirs) - words_of(ours)
    ]


def answers_in(row: Mapping[str, Any]) -> list[str]:
    """Columns that by their names hold an answer."""
    return _of(row, ANSWERS)


def _of(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The filled columns that have one of these names, the plainest first."""
    there = {spelling(name): name for name, value in row.items() if value and isinstance(value, str | list)}
    return [there[name] for name in names if name in there]


def spelling(name: str) -> str:
    """Answer A, answer-a, AnswerA → answer_a"""
    return re.sub(r"\W+|_+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).strip().lower())


def _spelt(row: Mapping[str, Any]) -> dict[str, str]:
    """Columns that formats read, but for how they are spelt."""
    return {ours: name for name in row if (ours := spelling(name)) in READ and ours not in row}


def _sides(row: Mapping[str, Any]) -> dict[str, str]:
    """The two sides of a pair where they are called chosen_response and rejected_response, or after another answer."""
    there = {spelling(name): name for name in row}
    names = (name for answer in ANSWERS for name in (f"{{}}_{answer}", f"{answer}_{{}}"))
    called = ({side: name.format(side) for side in ("chosen", "rejected")} for name in names)
    found = next((one for one in called if set(one.values()) <= set(there)), {})
    return {} if "chosen" in there or "rejected" in there else {side: there[name] for side, name in found.items()}


def _filled(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first row; what is null there, of the first that has it."""
    return {
        name: next((one[name] for one in rows if one.get(name) is not None), None) if value is None else value
        for name, value in rows[0].items()
    }


def _rank(row: dict[str, Any], purpose: Purpose | None) -> int:
    """How good a reading of a row is: 0 is the best, and len(KINDS) none."""
    fitting = [form for form in FORMS if form.is_that_of(row)]
    if purpose is None:
        return KINDS.index(_kind(fitting, row)) if fitting else len(KINDS)
    taken = (form.gives in TAKEN[purpose] and (form.has_prompt or purpose != "prompts") for form in fitting)
    return 0 if any(taken) else len(KINDS)


def _like_labels(row: Mapping[str, Any]) -> list[str]:
    """Columns that by their names say how good an answer is, or which is the better one."""
    return [name for name in row if words_of(name) & VOTES and not words_of(name) & NO_PRAISE]


def _against(row: Mapping[str, Any]) -> list[str]:
    """Columns that look so, but would be read the wrong way round."""
    return [name for name in row if words_of(name) & VOTES and words_of(name) & NO_PRAISE]


def _no_praise(name: str) -> set[str]:
    """The words by which a column's name does not praise: none in liked_or_not, which says both, unlike not_liked."""
    praise = words_of(re.sub(r"(^|_)(not|non)_[a-z]+", "", spelling(name))) & PRAISE
    found = words_of(name) & NO_PRAISE
    return set() if praise and found <= CENSURE else found


def _labelled(rows: Sequence[dict[str, Any]], sure: bool = False) -> Iterator[dict[str, str]]:
    """Names by which an answer with a label may be read; where it must be `sure`, those that leave no choice."""
    row, spelt = _filled(rows), _spelt(rows[0])
    labels = [name for name in row if words_of(name) & VOTES and not _no_praise(name)]
    labels = [name for name in labels if not (sure and "safe" in words_of(name))]  # which need not be good
    answers, questions = _of(row, ANSWERS), _of(row, votes.PROMPTS)
    for label in labels if len(labels) == 1 or not sure else ():
        values = [one[label] for one in rows if one.get(label) not in (None, "")]
        said = {label_of(value) for value in values}
        if None in said or not said or (sure and len(said) < 2 and not all(map(is_verdict, values))):
            continue
        tried = [{"label": label}, {"kto_tag": label}]
        if len(answers) == 1 or (answers and not sure):
            tried += [{"completion": answers[0], "label": label}, {"output": answers[0], "kto_tag": label}]
            if len(questions) == 1 or (questions and not sure):
                tried.append({"prompt": questions[0], "completion": answers[0], "label": label})
        for names in tried:
            others = {ours: name for ours, name in spelt.items() if name not in names.values() and ours not in names}
            yield others | names


def _nearest(rows: Sequence[dict[str, Any]], purpose: Purpose) -> str:
    """The --map that would do, else the format of which a single column is missing."""
    row = _filled(rows)
    if {"message_id", "parent_id", "text"} <= set(row):
        return "of OASST only the files of trees are read (their rows have a message_tree_id and a prompt); "
    if names := _dialogue(row, purpose):
        return f"{maps(names)}; "
    if purpose != "prompts" and any(
        form.is_that_of(row) for form in (*messages.FORMS, *sharegpt.FORMS) if form.gives == "prompts"
    ):
        return "dialogues that end before the answer are prompts (for ppo, eval and sample); "
    questions = _of(row, votes.PROMPTS)
    sides = _sides(row)
    if {"response_j", "response_k"} <= set(row):  # of StackExchange's pairs
        sides = {"chosen": "response_j", "rejected": "response_k"}
    if purpose != "prompts" and (sides or (questions and {"chosen", "rejected"} <= set(row))):
        better = ", if response_j is the better answer" if "response_j" in sides.values() else ""
        return f"{maps({'prompt': (*questions, 'COLUMN')[0]} | sides)}{better}; "
    if purpose in ("pairs", "labelled") and (two := votes.like_sides(row)):
        return f"{_two_answers(rows, questions, two)}; "
    if purpose == "prompts" and questions:
        return f"{maps({'prompt': questions[0]})}; "
    if (told := advice(rows, purpose)) and (purpose in ("labelled", "demos") or "helpfulness" in told):
        return f"{told}; "
    forms = [form for kind in TAKEN[purpose] for form in FORMS if form.gives == kind]
    lacking = {form.name: [column for column in form.columns if column not in row] for form in forms}
    near = [
        form.name for form in forms if len(lacking[form.name]) == 1 and len(form.columns) > 1 + (purpose == "pairs")
    ]
    return f"the nearest format is {near[0]}, but {lacking[near[0]][0]} is missing; " if near else ""


def _dialogue(row: dict[str, Any], purpose: Purpose) -> dict[str, str]:
    """The --map of a column that by what it holds is a dialogue; {} where that would not do."""
    for theirs in (name for name in row if spelling(name) not in READ):
        for ours, keys in (("messages", _MESSAGE), ("prompt", _MESSAGE), ("conversations", {"from", "value"})):
            found = renamed(row, {ours: theirs})
            turns = as_list(found[ours])
            if isinstance(turns, list) and turns and all(isinstance(one, dict) and keys <= set(one) for one in turns):
                if _rank(found, purpose) == 0:
                    return {ours: theirs}
    return {}


def _two_answers(rows: Sequence[dict[str, Any]], questions: Sequence[str], sides: tuple[str, str]) -> str:
    """The --map for two answers and their scores, or for the vote between them."""
    row = _filled(rows)
    names = {"prompt": questions[0] if questions else "COLUMN"}
    if not sides[0].endswith("0"):  # under their own names a vote of 1 is the second
        names |= {"a": sides[0], "b": sides[1]}
    labels = [name for name in _like_labels(row) if name not in sides]
    numbers = [name for name in labels if _numbers(rows, name)]
    if scores := next(((one, other) for one in numbers for other in numbers if votes.crossed(other, one)), None):
        return f"two answers and their scores: {maps(names | {'score_a': scores[0], 'score_b': scores[1]})}"
    winner = next(
        (
            name
            for name in labels
            if not words_of(name) & GRADES and not votes.of_one_side(name)
            if votes.are_votes(one.get(name) for one in rows)
        ),
        "COLUMN",
    )
    told = f"two answers and a vote: {maps(names | {'winner': winner})}"
    if winner == "COLUMN" and (against := _against(row)):
        told += f", a column in which you write who won ({' and '.join(against)} would be read the wrong way round)"
    return told


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column holds nothing but numbers."""
    there = [one[name] for one in rows if one.get(name) not in (None, "")]
    return bool(there) and all(score_of(value) is not None for value in there)


def _prompt_alone(form: Form, answered: Form) -> bool:
    """Whether a format of prompts reads that of a demonstration, without its answer."""
    return answered.gives == "demos" and set(form.columns) <= set(answered.columns)


def _nested(one: Form, other: Form) -> bool:
    """Whether the columns of one are among the other's: such rows are of both by nature."""
    return set(one.columns) <= set(other.columns) or set(other.columns) <= set(one.columns)
