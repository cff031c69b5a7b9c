"""Two answers and who won: votes of people and judges, in the layouts in which data sets, tools and sheets have them.

One reader for all: it looks for a prompt, two answers and a vote by the names that they go by, or by `--map a=…`,
`b=…`, `winner=…`. A vote is a, b or a tie in any of the usual spellings, the name or the text of what won, a number, or
a list of votes, whose majority counts; two scores may stand in its place. What a number means depends on the layout,
and a vote that may mean either of two things is refused: a number, or a "1" that is the second answer's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, Literal

from prefcli.data.formats.fields import (
    Raw,
    answer_in,
    messages_in,
    number_of,
    others,
    pair,
    prompt_in,
    question_of,
    score_of,
    split_common,
)
from prefcli.data.formats.form import Form
from prefcli.data.formats.implicit import turns_of
from prefcli.data.row import BadRow, Prompt, Row, Tie

Vote = Literal["a", "b", "tie"]
Reader = Callable[[Any], Vote | None]  # of a single vote
PROMPTS = ("prompt", "question", "instruction", "query", "context", "history", "input")
STEMS = ("answer", "response", "completion", "output", "generation", "reply", "candidate", "text", "human_ref",
         "conversation", "chosen")  # fmt: skip
SIDES = [
    ("a", "b"),
    ("left", "right"),
    *((f"{stem}{between}{a}", f"{stem}{between}{b}") for (a, b), stem, between
      in product((("a", "b"), ("A", "B"), ("1", "2"), ("0", "1")), STEMS, ("_", "-", " ", ""))),
]  # fmt: skip
SIGNED_WINNER = "winner, signed"  # what --map winner=overall_preference reads: see `with_signs`
# How a vote is called: the plainest first, then what single data sets and tools write.
SURE = (SIGNED_WINNER, "winner", "preference", "preferred", "choice", "better", "best", "vote", "better_response_id",
        "overall_preference", "preference_strength", "preference.responses", "choose-best")  # fmt: skip
MAYBE = ("safer_response_id", "comparison", "pairwise", "feedback", "labels", "label")  # or something else
WINNERS = (*SURE, *MAYBE)
# HelpSteer2 and 3: below 0 the first is better, 0 is a tie
SIGNED = ("preference_strength", "overall_preference", SIGNED_WINNER)
# In place of a vote: how good each answer is, the higher the better.
SCORED = [
    (name.format(one), name.format(other)) for one, other in ("ab", "AB", "12", "01")
    for name in ("score_{}", "rating_{}", "{}_score", "answer_{}_score", "response_{}_score")
]  # fmt: skip
ONE_HOT = {"winner_model_a": "a", "winner_model_b": "b", "winner_tie": "tie"}  # LMSYS on Kaggle
TIES = {"tie", "tie (bothbad)", "bothbad", "both_bad", "both bad", "both_good", "both good", "both", "equal", "same",
        "draw", "neither", "none", "no preference", "a=b", "=", "1.5"}  # fmt: skip
_WON = re.compile(
    r"(?:(?:model|assistant|answer|response|completion|output|generation|reply|candidate|option|text|conversation|choice)"
    r"[ _-]?)?(a|b|1|2|left|right|first|second)"
)
_SIDE: dict[str, Vote] = {
    "a": "a",
    "1": "a",
    "left": "a",
    "first": "a",
    "b": "b",
    "2": "b",
    "right": "b",
    "second": "b",
}


KNOWN = {*PROMPTS, *WINNERS, *ONE_HOT, "model_a", "model_b", *(name for both in (*SIDES, *SCORED) for name in both)}


class _Votes(Form):
    """The format whose columns go by many names."""

    def is_that_of(self, row: Raw) -> bool:
        return "chosen" not in row and _names(_flat(row)) is not None

    def settled(self, rows: Sequence[Raw]) -> Form:
        passed = _no_votes(rows)
        return replace(self, convert=partial(_convert, passed=passed), unclear=partial(unclear, passed=passed))


def _flat(raw: Raw) -> Raw:
    """The row, a task of Label Studio with its data and its votes at the top; with a winner where there are scores."""
    if scored := _scored(raw):
        one, other = (number_of(raw[name]) for name in scored)
        if one is None or other is None:
            return {**raw, "winner": " and ".join(_shown(raw, name) for name in scored)}
        return {**raw, "winner": "tie" if other == one else "b" if other > one else "a"}
    data, annotations = raw.get("data"), raw.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        return raw
    try:
        results = [one for annotation in annotations for one in (annotation or {}).get("result") or []]
        votes = [one.get("value") for one in results if one.get("type") == "pairwise"]
    except (AttributeError, TypeError):  # not as Label Studio writes them
        votes = None
    return {**others(raw, "data", "annotations"), **data, "winner": votes}


def _scored(raw: Raw) -> tuple[str, str] | None:
    """The names of two scores, where there is no vote."""
    if any(name in raw for name in (*WINNERS, *ONE_HOT)):
        return None
    return next(((a, b) for a, b in SCORED if a in raw and b in raw), None)


def _no_votes(rows: Iterable[Raw]) -> list[str]:
    """Columns beside two scores that are called as votes are and hold something else in one of the rows, or nothing in
    all: the scores count in the whole file, since a word of such a column may be a vote by chance."""
    rows = [row for row in rows if _scored(others(row, *WINNERS))]
    return [name for name in MAYBE if rows and not _holds_votes(rows, name)]


def _holds_votes(rows: Iterable[Raw], name: str) -> bool:
    there = [row for row in rows if row.get(name) not in (None, "", [], {})]
    return bool(there) and all(_may_vote(row, name) for row in there)


def _may_vote(raw: Raw, name: str) -> bool:
    """Whether a column holds a vote, or what may stand in a column of votes: a number."""
    value, sides = raw[name], sides_in(raw)
    if number_of(value) is not None or sides is None:
        return True
    try:
        return _vote(value, _reader(raw, *sides, name)) is not None
    except BadRow:
        return True


def sides_in(raw: Raw) -> tuple[str, str] | None:
    """The names of two answers' columns."""
    return next(((a, b) for a, b in SIDES if a in raw and b in raw), None)


def like_sides(raw: Raw) -> tuple[str, str] | None:
    """Two columns of text whose names are alike but for an a and a b (or 1 and 2, left and right). Of 0 and 1 under
    other names than ours it would not be known whether a vote of 1 is the second."""
    texts = [name for name, value in raw.items() if isinstance(value, str | list) and number_of(value) is None]
    return sides_in(raw) or next(
        ((one, other) for one in texts for other in texts if crossed(other, one) and "0" not in one), None
    )


def crossed(a: str, b: str) -> bool:
    """Whether by its name the first is of the second answer and the second of the first: answer_b and answer_a,
    answer_2_rating and answer_1_rating."""
    a, b = a.lower(), b.lower()
    return any(
        a[: at.start()] + other + a[at.end() :] == b
        for other, one in (("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"), ("first", "second"))
        for at in re.finditer(one, a)
    )


def of_one_side(name: str) -> bool:
    """Whether a column's name has the name of one of two answers in it, and not the other's."""
    parts = set(re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
    return bool(parts & {"a", "0", "1", "left", "first"}) != bool(parts & {"b", "2", "right", "second"})


def are_votes(values: Iterable[Any]) -> bool:
    """Whether each of a column's values that is there says who won, by its spelling."""
    there = [value for value in values if value not in (None, "")]
    return bool(there) and all(_vote(value, _spelt) is not None for value in there)


def _names(raw: Raw) -> tuple[str | None, str, str, str] | None:
    """The names of the prompt (None where the answers are whole dialogues), the two answers and the vote."""
    sides = sides_in(raw)
    winner = next((name for name in (*WINNERS, *ONE_HOT) if name in raw), None)
    if sides is None or winner is None:
        return None
    prompt = next((name for name in PROMPTS if name in raw), None)
    if prompt is None and not all(isinstance(raw[side], list) for side in sides):
        return None
    return prompt, *sides, winner


def _convert(raw: Raw, passed: Iterable[str] = ()) -> Row:
    aside = {name: raw[name] for name in passed if name in raw}
    raw = others(raw, *aside)
    scored, raw = _scored(raw), _flat(raw)
    names = _names(raw)
    if names is None:
        raise BadRow("missing column", "there is no prompt, no two answers or no vote")
    prompt, a, b, winner = names
    raw, asked = question_of(raw, prompt) if prompt else (raw, ())
    vote = raw[winner] if scored and raw[winner] in ("a", "b", "tie") else _winner(raw, a, b, winner)
    chosen, rejected = (b, a) if vote == "b" else (a, b)
    columns = aside | others(raw, *asked, a, b, winner, "winner", *(scored or ()), *ONE_HOT)
    if scored:
        scores = dict(zip((a, b), (number_of(raw[name]) for name in scored)))
        columns |= {"score_chosen": scores[chosen], "score_rejected": scores[rejected]}
    if vote == "tie":
        why = f"both answers have the score {scores[a]:g}" if scored else f"{_shown(raw, winner)} is a tie"
        raise Tie(why, _prompt_of(raw, prompt, a, b, columns))
    if prompt is None:
        return split_common(messages_in(raw, chosen), messages_in(raw, rejected), columns)
    raw = _turns_alone(raw, prompt, a, b)
    return pair(_prompt(raw, prompt), answer_in(raw, chosen), answer_in(raw, rejected), columns)


def _prompt_of(raw: Raw, name: str | None, a: str, b: str, columns: Raw) -> Row | None:
    """A tie's prompt alone; None where it has none."""
    try:
        if name is not None:
            return Row(_prompt(_turns_alone(raw, name, a, b), name), columns=columns)
        return Row(split_common(messages_in(raw, a), messages_in(raw, b), {}).prompt, columns=columns)
    except BadRow:
        return None


def _prompt(raw: Raw, name: str) -> Prompt:
    prompt = prompt_in(raw, name)
    return turns_of(prompt, name) if isinstance(prompt, str) else prompt


def _turns_alone(raw: Raw, *names: str) -> Raw:
    """The row with LMSYS's lists of turns as their texts: where its vote is LMSYS's, or prompt and answers are lists of
    one length. Else a text that is a JSON list is an answer like another."""
    found = [_parsed(raw[name]) for name in names]
    texts = all(isinstance(one, list) and all(isinstance(turn, str | None) for turn in one) for one in found)
    lists = texts and len(set(map(len, found))) == 1
    lists |= any(name in raw for name in ONE_HOT)
    return raw | {name: _only(raw[name], name) for name in names if lists or isinstance(raw[name], list)}


def _only(value: Any, name: str) -> Any:
    """LMSYS on Kaggle has a JSON list of each turn's text: that of a single turn."""
    found = _parsed(value)
    if not isinstance(found, list) or not all(isinstance(text, str | None) for text in found):
        return value
    if len(found) != 1:
        raise BadRow("prompts differ", f"'{name}' holds {len(found)} turns: the two dialogues differ before their last")
    return found[0]


def _winner(raw: Raw, a: str, b: str, name: str) -> Vote:
    """Raises BadRow: nobody voted, or it cannot be told for whom."""
    if name in ONE_HOT:
        won = [vote for column, vote in ONE_HOT.items() if str(raw.get(column)).strip() in ("1", "1.0", "True", "true")]
        if len(won) != 1:
            raise BadRow("bad label", f"one of {', '.join(ONE_HOT)} must be 1")
        return won[0]  # type: ignore[return-value]
    vote = _vote(raw[name], _reader(raw, a, b, name))
    if vote is None:
        raise BadRow("bad label", f"{_shown(raw, name)} says neither a, b nor tie")
    return vote


def _reader(raw: Raw, a: str, b: str, name: str) -> Reader:
    """What a single vote for one of a row's answers says, as it is spelt and as something that belongs to an answer.

    The reader raises BadRow where these two are different sides: "1", where the second answer is "1".
    """
    columns: dict[str, Vote] = {a: "a", b: "b"}
    numbers: dict[float, Vote] = {}
    if name == "labels" and a == "human_ref_A":  # SHP: 1 says that A is better
        numbers = {1: "a", 0: "b"}
    elif a.endswith("0"):  # numbered as its answers are
        numbers = {0: "a", 1: "b"}
    called: list[tuple[Any, Vote]] = [
        (raw.get("model_a"), "a"),
        (raw.get("model_b"), "b"),
        (raw[a], "a"),
        (raw[b], "b"),
    ]

    def read(value: Any) -> Vote | None:
        number = number_of(value)
        if number is not None and name in SIGNED:
            return "a" if number < 0 else "b" if number > 0 else "tie"
        if numbers and number is not None:
            spelt = "tie" if number == 0.5 else numbers.get(number)
        else:
            spelt = columns.get(value) if isinstance(value, str) else None
            spelt = spelt or _spelt(value)
        said = {vote for text, vote in called if isinstance(value, str) and text == value}
        said |= {spelt} if spelt else set()
        if len(said) > 1:
            raise BadRow("bad label", f"{_shown(raw, name)} may mean either answer: it is the text or model of one")
        return said.pop() if said else None

    return read


def _vote(value: Any, read: Reader) -> Vote | None:
    """The verdict of one vote, or of most of several; None for what is not a vote. Raises what `read` does."""
    value = _parsed(value)
    if value is None:
        return None
    if isinstance(value, dict):
        return _vote(value.get("selected", value.get("value")), read)
    if isinstance(value, list):
        return _majority(value, read)
    return read(value)


def _spelt(value: Any) -> Vote | None:
    text = str(value).strip().lower().removesuffix(".0")
    if text in TIES:
        return "tie"
    won = _WON.fullmatch(text)
    return _SIDE[won[1]] if won else None


def _majority(values: list[Any], read: Reader) -> Vote | None:
    if values and all(isinstance(one, dict) and "rank" in one for one in values):  # Argilla's ranking: 1 is the best
        ranks = [rank for one in values if (rank := number_of(one["rank"])) is not None]
        if len(ranks) < len(values):
            return None
        won = {_vote(one.get("value"), read) for one, rank in zip(values, ranks) if rank == min(ranks)}
        return won.pop() if len(won) == 1 else "tie"
    votes = [vote for one in values if (vote := _vote(one, read)) is not None]
    if not votes:
        return None
    a, b = votes.count("a"), votes.count("b")
    return "a" if a > b else "b" if b > a else "tie"


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
    return value


def _shown(raw: Raw, name: str) -> str:
    said = json.dumps(raw[name], ensure_ascii=False, default=str)[:60]
    return f"'{'winner' if name == SIGNED_WINNER else name}': {said}"


def unclear(rows: Iterable[Raw], passed: Iterable[str] = ()) -> str | None:
    """Why votes make those of their whole file unclear: a 0 may mean the first answer, the second or a tie, and a 1
    beside a number below 0 may mean the second, though 1 is the first beside a 2."""
    why = None
    for raw in rows:
        raw = _flat(others(raw, *passed))
        if (names := _names(raw)) is None:
            continue
        _, a, _, winner = names
        if winner in (*SIGNED, *ONE_HOT) or a.endswith("0") or (winner == "labels" and a == "human_ref_A"):
            continue
        single: list[Any] = []
        _vote(raw[winner], single.append)  # it may be a list of them
        numbers = [number for one in single if (number := score_of(one)) is not None]
        if min(numbers, default=1) < 0:
            return (
                f"{_shown(raw, winner)} is below 0, so that a 1 may mean either answer; --map "
                "preference_strength=COLUMN reads numbers below 0 as the first answer, those above 0 as the second and "
                "0 as a tie"
            )
        if min(numbers, default=1) == 0 and why is None:
            why = f"{_shown(raw, winner)} may mean the first answer, the second, or a tie"
    return why


def with_signs(names: Mapping[str, str]) -> dict[str, str]:
    """--map's names (ours → theirs) with HelpSteer's numbers under a name of their own, too: by the name of their
    column it is known what they mean, whatever other vote stands beside them."""
    return dict(names) | ({SIGNED_WINNER: names["winner"]} if names.get("winner") in SIGNED else {})


def other_votes(rows: Sequence[Raw], names: Mapping[str, str]) -> list[str]:
    """A note on each vote of the first row beside the one that is read, which may be for the other answer. `names` are
    --map's, ours → theirs."""
    raw = others(rows[0], *_no_votes(rows))
    if "chosen" in raw or (found := _names(raw)) is None:
        return []
    _, a, b, read = found
    there = []
    for name in WINNERS:
        with suppress(BadRow):
            if name in raw and name not in (read, "winner") and _winner(raw, a, b, name):
                there.append(name)
    vote = names.get(read, read)
    return [
        f"the vote is {vote!r} and not {name!r}, which may say otherwise (--map winner={name} reads it)"
        for name in there
    ]


def votes_beside(raw: Raw) -> Iterator[str]:
    """Columns that a reader of `chosen` and `rejected` passes over and that say which of two answers won."""
    for name in ("winner", "preference", "preferred", "choice", "better", "best", "vote", "label", "labels"):
        if (
            isinstance(raw.get(name), str if name.startswith("label") else str | int)
            and _vote(raw[name], _spelt) is not None
        ):
            yield name


_A, _B = "On the shelf.", "No idea."
_ASKED, _SAID = (
    {"role": "user", "content": "Where is the cup?"},
    [{"role": "assistant", "content": t} for t in (_A, _B)],
)
_TASK = {"prompt": "Where is the cup?", "answer1": _A, "answer2": _B}
_SELECTED = [{"result": [{"type": "pairwise", "value": {"selected": "left"}}]}]
FORMS = (
    _Votes(
        "two answers and a winner",
        ("prompt", "a", "b", "winner"),
        "pairs",
        "sheets of votes, chatbot arenas, HelpSteer2 and 3, SafeRLHF, SHP, Argilla, Label Studio",
        (
            {"prompt": "Where is the cup?", "a": _A, "b": _B, "winner": "a"},
            {"question": "Where is the cup?", "answer_a": _B, "answer_b": _A, "winner": "model_b"},
            {"prompt": "Where is the cup?", "response_1": _A, "response_2": _B, "preference_strength": -2},
            {"context": [_ASKED], "response1": _B, "response2": _A, "overall_preference": 1},
            {"prompt": "Where is the cup?", "response_0": _B, "response_1": _A, "better_response_id": 1},
            {"history": "Where is the cup?", "human_ref_A": _A, "human_ref_B": _B, "labels": 1},
            {"conversation_a": [_ASKED, _SAID[0]], "conversation_b": [_ASKED, _SAID[1]], "winner": "model_a"},
            {"prompt": '["Where is the cup?"]', "response_a": f'["{_A}"]', "response_b": f'["{_B}"]',
             "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
            {"prompt": "Where is the cup?", "response-1": _A, "response-2": _B, "choose-best": [{"value": 1}]},
            {"data": _TASK, "annotations": _SELECTED},
        ),
        _convert,
        unclear=unclear,
        turns=True,
    ),
)  # fmt: skip
