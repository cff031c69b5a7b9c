"""A dialogue with one model, or with two whose names are hidden until one answer is preferred. Imports torch."""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefcli.config.chat import ChatConfig
from prefcli.config.ui import UIConfig
from prefcli.data.appending import JsonLines
from prefcli.errors import UsageError
from prefcli.evaluation.chat import Chat, open_chat
from prefcli.progress import Reporter
from prefcli.statistics.intervals import wilson_interval

LONGEST = 50_000  # characters of a question
SIDES = ("left", "right")


class Talk:
    """One dialogue, for whoever has the page open; a model answers one question at a time."""

    def __init__(self, chat: Chat, file: JsonLines | None) -> None:
        self._chat, self._file, self._lock = chat, file, threading.Lock()
        self._asked: tuple[str, bool] | None = None  # of the question that may be voted on: its id, whether swapped
        self._wins = [0, 0]  # of each model, in the order of the command line
        self._ties = 0
        self._voted: tuple[tuple[str, bool], int | None] | None = (
            None  # the last question's vote: who won, None of a tie
        )
        self._seen = False  # whether the models' names were shown before a vote, since one was taken back
        self.two, self.saves = len(chat.speakers) > 1, file is not None

    def ask(self, text: Any) -> dict[str, Any]:
        """{"id", "answers"}; of two, which one stands on the left is drawn anew each time.

        Raises UsageError: it is empty or too long. DataError: the chat template refuses the dialogue.
        """
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
            raise UsageError(f"a question has from 1 to {LONGEST:,} characters")
        with self._lock:
            last = self._chat.last
            try:
                answers = self._chat.ask(text)
            except BaseException:
                self._chat.last = last  # the question before it may still be voted on
                raise
            swapped = self.two and random.SystemRandom().random() < 0.5
            self._asked, self._voted, self._seen = (secrets.token_hex(8), swapped), None, False
            return {"id": self._asked[0], "answers": answers[::-1] if swapped else answers}

    def state(self) -> dict[str, Any]:
        """{"turns": the messages so far, "asked", "tally"}: for a page that is loaded anew.

        "asked" is what `ask` said of a question that waits for its vote, whose answers are not among the turns.
        """
        with self._lock:
            turns, asked, last = list(self._chat.history), None, self._chat.last
            if self.two and self._asked is not None and last is not None:
                number, swapped = self._asked
                asked = {"id": number, "answers": last.answers[::-1] if swapped else last.answers}
                turns.pop()
            return {"turns": turns, "asked": asked, "tally": self._tally()}

    def vote(self, number: Any, verdict: Any) -> dict[str, Any]:
        """{"names": from left to right, "tally"}. A preference is on disk, as a pair, when this returns; the dialogue
        continues with the better answer. Raises UsageError: not the last question, voted on, equal or empty answers.
        OSError: the disk does not take it, and it may be given again."""
        with self._lock:
            if self._asked is None or number != self._asked[0] or not self.two:
                raise UsageError("there is no such question to vote on, or it has its vote")
            if verdict not in (*SIDES, "tie"):
                raise UsageError(f"{str(verdict)[:50]!r} is not a verdict here")
            swapped, winner = self._asked[1], None
            if verdict == "tie":
                self._ties += 1
            else:
                last = self._chat.last
                if last is None or len({text.strip() for text in last.answers} - {""}) < 2:
                    raise UsageError("the answers are the same, or one is empty: no pair")
                winner = SIDES.index(verdict) ^ swapped
                row = self._chat.preference(SIDES[winner])
                if self._file is not None:
                    models = [self._chat.speakers[place].name for place in (winner, 1 - winner)]
                    at = datetime.now(UTC).isoformat(timespec="microseconds")
                    try:
                        self._file.append(row | {"models": models, "at": at} | ({"seen": True} if self._seen else {}))
                    except OSError:
                        self._chat.withdraw()
                        raise
                self._wins[winner] += 1
            self._voted = (self._asked, winner)
            self._asked = None
            names = [speaker.name for speaker in self._chat.speakers]
            return {"names": names[::-1] if swapped else names, "tally": self._tally()}

    def undo(self) -> dict[str, Any]:
        """{"id", "tally"}: the last vote is taken back, and may be given anew; that one's row says that the names were
        `seen`. Raises UsageError: no vote since the last question."""
        with self._lock:
            if self._voted is None:
                raise UsageError("no vote of the last question to take back")
            asked, winner = self._voted
            if winner is None:
                self._ties -= 1
            else:
                if self._file is not None:
                    self._file.take_back()
                self._chat.withdraw()
                self._wins[winner] -= 1
            self._asked, self._voted, self._seen = asked, None, True
            return {"id": asked[0], "tally": self._tally()}

    def reset(self) -> dict[str, Any]:
        """Forget the dialogue, not the votes."""
        with self._lock:
            self._chat.reset()
            self._asked = self._voted = None
            return {}

    def _tally(self) -> dict[str, Any] | None:
        """Who won how often, and the first one's fraction with its 95 % interval, ties as halves. None: no votes."""
        votes = sum(self._wins) + self._ties
        if not votes:
            return None
        won = self._wins[0] + self._ties / 2
        low, high = wilson_interval(won, votes)
        wins = [[speaker.name, count] for speaker, count in zip(self._chat.speakers, self._wins)]
        return {"wins": wins, "ties": self._ties, "fraction": won / votes, "ci95": [low, high]}


@contextmanager
def opened(config: UIConfig, reporter: Reporter) -> Iterator[Talk]:
    """The models of `config.chat`, loaded. Raises as `open_chat` does."""
    with ExitStack() as stack:
        file = stack.enter_context(JsonLines(Path(config.chat_out))) if config.chat_out else None
        if file and file.rows and not {"chosen", "rejected"} <= set(file.rows[0]):
            raise UsageError(f"--chat-out {config.chat_out} holds rows without chosen and rejected", "choose another")
        two = config.chat[1] if len(config.chat) > 1 else None
        asked = ChatConfig(config.chat[0], two, seed=config.seed, dtype=config.dtype, device=config.device,
                           runs=config.runs)  # fmt: skip
        yield Talk(open_chat(asked, reporter, stack.callback), file)
