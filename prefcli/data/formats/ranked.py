"""Several answers to a prompt, with scores or ranks: UltraFeedback's own rows, Nectar, distilabel, OASST's trees,
HelpSteer2's answers, each a row.

The pair is the answer with the best score against the one with the worst; of equal ones the first that stands in the
row. (UltraFeedback binarized draws the rejected one at random from the others; best against worst is the same each
time, and the pair whose order is the least in doubt.) With `--pairs-of all` every two answers with different scores are
a pair. Answers that all have one score are a tie. UltraFeedback's score is fine-grained_score, the mean over four
aspects, where all that are scored have one, else overall_score.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.formats.fields import (
    Raw,
    answer_in,
    as_list,
    messages_in,
    number_of,
    optional_in,
    others,
    pair,
    prompt_in,
    question_of,
    string_in,
)
from prefcli.data.formats.form import Form, Ranked
from prefcli.data.formats.implicit import turns_of
from prefcli.data.records import Records, renamed
from prefcli.data.row import ODD, BadRow, Message, Row, Tie, odd

_SCORES = ("fine-grained_score", "overall_score", "score")
_GENERATIONS = (
    ("generations", "ratings"),
    ("generations", "rating"),
    ("responses", "scores"),
    ("responses", "ratings"),
)
_ASPECTS = ("correctness", "coherence", "complexity", "verbosity")  # HelpSteer2's other scores
_SIDES = ("completion", "chosen", "rejected")
_SPEAKERS = {"prompter": "user", "assistant": "assistant"}


def pairs_of(ranked: Ranked, every: bool) -> list[Row]:
    """The best answer against the worst, or `every` two that differ in score; the better pairs first. Raises Tie."""
    order = sorted(ranked.answers, key=lambda answer: -answer[0])
    found = [(one, other) for one, other in combinations(order, 2) if one[0] > other[0]]
    if not found:
        said = "there are no two answers to compare"
        if len(order) > 1:
            said = f"all {len(order)} answers have the score {order[0][0]:g}"
        raise Tie(said, Row(ranked.prompt, columns=ranked.columns))
    if not every:
        worst = next(answer for answer in order if answer[0] == order[-1][0])
        found = [(order[0], worst)]
    return [
        pair(ranked.prompt, one[1], other[1], ranked.columns | {"score_chosen": one[0], "score_rejected": other[0]})
        for one, other in found
    ]


def _two(ranked: Ranked) -> Ranked:
    if len(ranked.answers) < 2:
        raise BadRow("missing column", f"there are {len(ranked.answers)} answers with a score: a pair needs two")
    return ranked


def _feedback(raw: Raw, question: str) -> list[Ranked]:
    raw, asked = question_of(raw, question)
    prompt: list[Message] = [{"role": "user", "content": string_in(raw, question)}]
    if system := optional_in(raw, "system"):
        prompt.insert(0, {"role": "system", "content": system})
    found = as_list(raw.get("completions"))
    if not isinstance(found, list):
        raise BadRow("wrong type", "'completions' must be a list of answers with scores")
    given = [(scores, one) for one in found if (scores := _scores(one)) and not _is_blank(one.get("response"))]
    scale = next((name for name in _SCORES if all(name in scores for scores, _ in given)), None)
    if scale is None:
        known = ", ".join(_SCORES)
        raise BadRow("wrong type", f"'completions' must have one score in common ({known}): scales cannot be compared")
    answers = [(scores[scale], answer_in(one, "response")) for scores, one in given]
    return [_two(Ranked(prompt, answers, others(raw, *asked, "system", "completions")))]


def _scores(completion: Any) -> dict[str, float]:
    """The scores that are finite numbers (a missing one is text there, or null)."""
    if not isinstance(completion, dict):
        raise BadRow("wrong type", '\'completions\' must hold objects {"response": …, "fine-grained_score": …}')
    return {name: score for name in _SCORES if (score := number_of(completion.get(name))) is not None}


def _nectar(raw: Raw) -> list[Ranked]:
    prompt = prompt_in(raw, "prompt")
    prompt = turns_of(prompt, "prompt") if isinstance(prompt, str) else prompt
    answers, found = [], as_list(raw.get("answers"))
    if not isinstance(found, list):
        raise BadRow("wrong type", "'answers' must be a list of answers with ranks")
    for one in found:
        rank = number_of(one.get("rank")) if isinstance(one, dict) else None
        if rank is None:
            raise BadRow("wrong type", '\'answers\' must hold objects {"answer": …, "rank": 1, …}, 1 being the best')
        if not _is_blank(one.get("answer")):
            answers.append((-rank, answer_in(one, "answer")))
    return [_two(Ranked(prompt, answers, others(raw, "prompt", "answers")))]


def _is_blank(text: Any) -> bool:
    """Whether a model said nothing: its answer is left out of the list."""
    return isinstance(text, str) and not text.strip()


def _generations(raw: Raw) -> list[Ranked]:
    texts, scores = _lists(raw) or ("generations", "ratings")
    if not isinstance(raw.get(texts), list) or not isinstance(raw.get(scores), list):
        raise BadRow("wrong type", f"'{texts}' and '{scores}' must be lists")
    if len(raw[texts]) != len(raw[scores]):
        raise BadRow(
            "wrong type", f"'{texts}' holds {len(raw[texts])} answers and '{scores}' {len(raw[scores])} scores"
        )
    question = "instruction" if "instruction" in raw else "prompt"
    raw, asked = question_of(raw, question)
    answers = [
        (score, answer_in({texts: text}, texts))
        for text, value in zip(raw[texts], raw[scores])
        if (score := number_of(value)) is not None and not _is_blank(text)
    ]
    return [_two(Ranked(prompt_in(raw, question), answers, others(raw, *asked, texts, scores)))]


class _Rated(Form):
    """The format whose columns go by several names."""

    def is_that_of(self, row: Raw) -> bool:
        return _lists(row) is not None and ("prompt" in row or "instruction" in row)


def _lists(row: Raw) -> tuple[str, str] | None:
    return next((names for names in _GENERATIONS if all(isinstance(row.get(name), list) for name in names)), None)


def _tree(raw: Raw) -> list[Ranked]:
    """Every prompt of a tree, with the answers that people ranked, 0 being the best, or the only one."""
    if not isinstance(raw.get("prompt"), dict):
        raise BadRow("wrong type", "'prompt' must be a message with replies")
    columns, found = others(raw, "prompt"), []
    left: list[tuple[list[Message], Any]] = [([], raw["prompt"])]
    while left:
        above, node = left.pop()
        if node.get("role") not in _SPEAKERS or not _stands(node):
            continue
        dialogue = messages_in(
            {"prompt": [*above, {"role": _SPEAKERS[node["role"]], "content": node.get("text")}]}, "prompt"
        )
        replies = [one for one in as_list(node.get("replies")) or [] if isinstance(one, dict) and _stands(one)]
        left += [(dialogue, reply) for reply in reversed(replies)]
        if node["role"] == "prompter":
            ranks = [0.0] if len(replies) == 1 else [number_of(one.get("rank")) for one in replies]
            answers = [(-rank, answer_in(one, "text")) for rank, one in zip(ranks, replies) if rank is not None]
            found.append(Ranked(dialogue, answers, columns))
    if not found:
        raise Tie("all prompts of the tree were deleted or did not pass their review")
    return found


def _stands(message: Raw) -> bool:
    return not message.get("deleted") and message.get("review_result") is not False


def _group(raw: Raw) -> list[Ranked]:
    """What GroupedRecords makes of the rows of one prompt. Other columns stay where all of them say the same."""
    rows = raw["answers"]
    prompt, answers = prompt_in(rows[0], "prompt"), []
    prompt = turns_of(prompt, "prompt") if isinstance(prompt, str) else prompt
    for row in rows:
        if (score := number_of(row.get("helpfulness"))) is None:
            raise BadRow("wrong type", f"'helpfulness' must be a number, and is {row.get('helpfulness')!r}")
        answers.append((score, answer_in(row, "response")))
    same = {name: value for name, value in rows[0].items() if all(row.get(name) == value for row in rows)}
    columns = others(same, "prompt", "response", "helpfulness", *_ASPECTS)
    if len(answers) == 1:
        raise Tie("no row beside it has another answer to this prompt", Row(prompt, columns=columns))
    return [Ranked(prompt, answers, columns)]


def _has_responses(row: Raw) -> bool:
    found = as_list(row["completions"])
    return isinstance(found, list) and bool(found) and all(isinstance(one, dict) and "response" in one for one in found)


def _has_ranks(row: Raw) -> bool:
    found = as_list(row["answers"])
    return isinstance(found, list) and bool(found) and all(isinstance(one, dict) and "rank" in one for one in found)


def _form(
    name: str, columns: tuple[str, ...], about: str, example: Raw, lists: Any, kind: type[Form] = Form, **more: Any
) -> Form:
    return kind(
        name, columns, "pairs", about, (example,), lambda raw: pairs_of(lists(raw)[0], every=False)[0],
        lists=lists, **more,
    )  # fmt: skip


_ASKED, _A, _B = "Where is the cup?", "On the shelf.", "No idea."
_GIVEN = [{"response": _A, "fine-grained_score": 4.5}, {"response": _B, "fine-grained_score": 1.0}]
_REPLIES = [{"role": "assistant", "text": _B, "rank": 1}, {"role": "assistant", "text": _A, "rank": 0}]
FORMS = (
    _form(
        "UltraFeedback completions",
        ("instruction", "completions"),
        "UltraFeedback's own rows: the completion with the best score against that with the worst",
        {"instruction": _ASKED, "completions": _GIVEN},
        lambda raw: _feedback(raw, "instruction"),
        fits=_has_responses,
    ),
    _form(
        "scored completions",
        ("prompt", "completions"),
        "the same under a prompt column",
        {"prompt": _ASKED, "completions": _GIVEN},
        lambda raw: _feedback(raw, "prompt"),
        fits=_has_responses,
    ),
    _form(
        "ranked answers",
        ("prompt", "answers"),
        "Nectar: answers with ranks, 1 being the best",
        {"prompt": _ASKED, "answers": [{"answer": _B, "rank": 2}, {"answer": _A, "rank": 1}]},
        _nectar,
        fits=_has_ranks,
        turns=True,
    ),
    _form(
        "rated generations",
        ("prompt", "generations", "ratings"),
        "distilabel: a list of answers and one of their ratings",
        {"prompt": _ASKED, "generations": [_B, _A], "ratings": [1.0, 4.5]},
        _generations,
        _Rated,
    ),
    _form(
        "OASST trees",
        ("message_tree_id", "prompt"),
        "OpenAssistant's trees: at each prompt the reply that people ranked first against the last",
        {"message_tree_id": "1", "prompt": {"role": "prompter", "text": _ASKED, "replies": _REPLIES}},
        _tree,
        fits=lambda row: isinstance(row["prompt"], dict),
        trees=True,
    ),
    Form(
        "rated answers",
        ("prompt", "response", "helpfulness"),
        "pairs",
        "HelpSteer2's own rows: the answers to a prompt, one after another, each with its helpfulness",
        (
            {"prompt": _ASKED, "response": _A, "helpfulness": 4},
            {"prompt": _ASKED, "response": _B, "helpfulness": 1},
        ),
        lambda raw: pairs_of(_group(raw)[0], every=False)[0],
        lists=_group,
        grouped=True,
        turns=True,
    ),
)


class GroupedRecords(Records):
    """The rows of each prompt, one after another in the source, as one: {"answers": [row, …]}."""

    def __init__(self, records: Records, names: Mapping[str, str]) -> None:
        super().__init__(records.path, records.digest)
        self._records, self._names = records, names
        self._starts, before = array("Q"), None
        for own in range(len(records)):
            try:
                prompt = json.dumps(renamed(records.raw(own), names).get("prompt"), default=str)
            except BadRow:
                prompt = None
            if prompt is None or prompt != before:
                self._starts.append(own)
            before = prompt
        self._starts.append(len(records))

    def check(self) -> None:
        self._records.check()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def raw(self, position: int) -> Raw:
        return {"answers": [renamed(row, self._names) for row in self.rows_at(position)]}

    def rows_at(self, position: int) -> list[Raw]:
        return [self._records.raw(own) for own in range(self._starts[position], self._starts[position + 1])]

    def number(self, position: int) -> int:
        return self._records.number(self._starts[position])

    def place(self, position: int) -> str:
        return self._records.place(self._starts[position])


class RankedRecords(Records):
    """The pairs that are made of rows with several ranked answers, each a row; what makes none is one, and says why.

    Of a prompt without a pair "demos" take its only answer, and "prompts" the prompt.
    """

    def __init__(self, records: Records, names: Mapping[str, str], form: Form, every: bool, purpose: Purpose) -> None:
        super().__init__(records.path, records.digest)
        self._records, self._names, self._form, self._every, self._purpose = records, names, form, every, purpose
        self._held: tuple[int, list[Row] | BadRow] = -1, []
        self._starts = array("Q", [0])
        for own in range(len(records)):
            found = self._pairs(own)
            self._starts.append(self._starts[-1] + (1 if isinstance(found, BadRow) else len(found)))

    def check(self) -> None:
        self._records.check()

    def __len__(self) -> int:
        return self._starts[-1]

    def raw(self, position: int) -> Raw:
        own = self._own(position)
        found = self._pairs(own)
        if isinstance(found, BadRow):
            raise found
        row = found[position - self._starts[own]]
        sides = {side: text for side in _SIDES if (text := getattr(row, side)) is not None}
        return others(row.columns, *_SIDES) | {"prompt": row.prompt} | sides

    def number(self, position: int) -> int:
        return self._records.number(self._own(position))

    def place(self, position: int) -> str:
        own = self._own(position)
        return f"{self._records.place(own)}, pair {position - self._starts[own] + 1}"

    def _own(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _pairs(self, own: int) -> list[Row] | BadRow:
        """Of a row of the source; the last that was asked for is held."""
        if self._held[0] != own:
            self._held = own, self._made(own)
        return self._held[1]

    def _made(self, own: int) -> list[Row] | BadRow:
        assert self._form.lists is not None
        rows: list[Row] = []
        bad: BadRow = Tie("there are no answers")
        try:
            for ranked in self._form.lists(renamed(self._records.raw(own), self._names)):
                try:
                    rows += self._rows(ranked)
                except BadRow as error:  # the tree's others may do
                    bad = bad if isinstance(error, Tie) and not isinstance(bad, Tie) else error
        except BadRow as error:
            bad = error
        except ODD as error:
            bad = odd(error)
        return rows or bad

    def _rows(self, ranked: Ranked) -> list[Row]:
        demos = self._purpose == "demos"
        if demos and len(ranked.answers) == 1:
            return [Row(ranked.prompt, completion=ranked.answers[0][1], columns=ranked.columns)]
        try:
            made = pairs_of(ranked, self._every)
        except Tie as tie:
            if self._purpose != "prompts" or tie.row is None:
                raise
            return [tie.row]
        return [replace(row, completion=row.chosen) for row in made] if demos else made


def remade(raw: Raw) -> Row:
    """A row of RankedRecords, converted."""
    completion, chosen, rejected = (answer_in(raw, name) if name in raw else None for name in _SIDES)
    return Row(prompt_in(raw, "prompt"), completion, chosen, rejected, columns=others(raw, "prompt", *_SIDES))
