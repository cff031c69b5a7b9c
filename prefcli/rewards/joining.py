"""Requests that wait are scored together, in one thread: the model's memory is that of one round.

A round takes one text of each request in turn until it has its tokens. So a request of 50,000 texts is many rounds, and
one of a single text that comes later is in the next: nobody gets more than an equal share while others wait.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from prefcli.progress import Reporter
from prefcli.rewards.requests import BadRequest, Request
from prefcli.rewards.sources import ModelReward

WAITING = 512  # requests; more are asked to come again
ROUND = 0.2  # seconds that a round should last: what a new request waits for at most, before its own
TOKENS = (256, 1024, 16_384)  # of a round: fewest, at first, most


@dataclass
class _Job:
    request: Request
    scores: Future[list[float]] = field(default_factory=Future)
    begun: int = 0  # texts that were taken
    found: dict[int, float] = field(default_factory=dict)

    @property
    def left(self) -> bool:
        return self.begun < len(self.request.texts)


Taken = tuple[_Job, int, list[int]]  # whose text, which of its texts, token ids


class Joiner:
    """The thread that scores. It runs from the start until `stop`."""

    def __init__(self, source: ModelReward, reporter: Reporter) -> None:
        self._source, self._reporter = source, reporter
        self._jobs: deque[_Job] = deque()  # those with texts that were not taken yet; the first has waited longest
        self._unanswered = 0
        self._change = threading.Condition()
        self._ended = False
        self._tokens = TOKENS[1]
        self._thread = threading.Thread(target=self._run, daemon=True, name="scoring")
        self._thread.start()

    def submit(self, request: Request) -> Future[list[float]]:
        """One score for each text. Who cancels it is dropped with all texts that were not scored yet.

        Raises BadRequest: too many wait. The future's exception is a DataError where a text is empty or too long, an
        ArithmeticError where the model gave no finite number, and else what the model raised.
        """
        job = _Job(request)
        with self._change:
            if self._ended or self._unanswered >= WAITING:
                raise BadRequest("too many requests are waiting: try again later", 503)
            self._unanswered += 1
            self._jobs.append(job)
            self._change.notify()
        job.scores.add_done_callback(self._answered)
        return job.scores

    def stop(self) -> None:
        """End the current round and leave the rest unanswered."""
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()

    def _answered(self, _: Future[list[float]]) -> None:
        with self._change:
            self._unanswered -= 1

    def _run(self) -> None:
        self._source.prepare_to_serve()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._ended)
                if self._ended:
                    break
            began = time.monotonic()
            taken, whole = self._round()
            for part in _alike(taken, self._tokens):
                self._score(part)
            self._learn(time.monotonic() - began, whole)
        for job in self._jobs:
            job.scores.cancel()

    def _round(self) -> tuple[list[Taken], bool]:
        """Texts in turn, one of each request, and whether there were as many as a round takes."""
        taken: list[Taken] = []
        room = self._tokens
        while room > 0:
            with self._change:
                if not self._jobs:
                    return taken, False
                job = self._jobs.popleft()
            if job.scores.done():  # who asked has left, or was told of another text
                continue
            number = job.begun
            try:
                ids = self._source.ids_of_text(job.request.texts[number], job.request.prompts[number],
                                               job.request.longest, f"text {number}")  # fmt: skip
            except BaseException as error:  # of the tokenizers library, whose panics are no Exceptions, too
                _end(job, error)
                continue
            job.begun += 1
            taken.append((job, number, ids))
            room -= len(ids)
            if job.left:
                with self._change:
                    self._jobs.append(job)
        return taken, True

    def _score(self, taken: list[Taken]) -> None:
        try:
            scores = self._source.score_ids([ids for _, _, ids in taken]).tolist()
        except Exception as error:
            for job, _, _ in taken:
                _end(job, error)
            return
        for (job, number, _), score in zip(taken, scores, strict=True):
            job.found[number] = score
            if len(job.found) == len(job.request.texts):
                found = [job.found[i] for i in range(len(job.found))]
                bad = next((value for value in found if not math.isfinite(value)), None)
                _end(job, found if bad is None else ArithmeticError(f"the reward model gave {bad}"))

    def _learn(self, seconds: float, whole: bool) -> None:
        """More tokens a round where the machine does them in less than its time, fewer where it does not."""
        if seconds > 1.5 * ROUND:
            self._tokens = max(TOKENS[0], self._tokens // 2)
        elif whole and seconds < ROUND / 2:
            self._tokens = min(TOKENS[2], self._tokens * 2)


def _alike(taken: list[Taken], tokens: int) -> list[list[Taken]]:
    """In parts for one pass each: alike in length, and with their padding at most `tokens`, or a single one."""
    parts: list[list[Taken]] = []
    for one in sorted(taken, key=lambda one: -len(one[2])):
        if parts and len(parts[-1][0][2]) * (len(parts[-1]) + 1) <= tokens:
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


def _end(job: _Job, outcome: list[float] | BaseException) -> None:
    """Hand over, unless who asked has left, or was told of another of its texts already."""
    if job.scores.done() or not job.scores.set_running_or_notify_cancel():
        return
    if isinstance(outcome, BaseException):
        job.scores.set_exception(outcome)
    else:
        job.scores.set_result(outcome)
