"""A dialogue with one model, or with two that answer the same: history, what is cut from it, rows to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.config.chat import ChatConfig
from prefcli.data.encoder import Encoder
from prefcli.data.row import Message, Prompt, Row
from prefcli.errors import UsageError
from prefcli.evaluation.models import answer
from prefcli.evaluation.served import check, sampler_of
from prefcli.memory.references import parameters_of
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.generation import Sampler
from prefcli.models.loading import load_policy
from prefcli.models.positions import positions_of
from prefcli.models.tokenizers import has_own_template, load_tokenizer
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.grammar import refuse_reward_model


@dataclass
class Speaker:
    """A model that answers."""

    name: str
    model: Any
    tokenizer: Any
    sampler: Sampler | None = None  # None: the model itself


@dataclass
class Exchange:
    """The last question, with all that the models read before it, and each one's answer."""

    prompt: Prompt
    answers: list[str]
    saved: bool = False


@dataclass
class Chat:
    """The dialogue so far. Of two answers the first continues in it, or the one that is preferred.

    `plain`: a speaker has no chat template, and the text is continued as it is. Each answer has a seed of its own:
    `seed`, `seed` + 1, …
    """

    speakers: list[Speaker]
    plain: bool
    temperature: float
    max_new_tokens: int
    seed: int
    reporter: Reporter = SILENT
    system: str | None = None
    history: list[Message] = field(default_factory=list)
    last: Exchange | None = None
    _asked: tuple[list[Message], str] | None = None  # the history before the last question, and the question

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> list[str]:
        """Each speaker's answer. `on_text` is told the pieces of text as they are sampled, of one speaker.

        Turns that do not fit before the question are forgotten, the oldest first, with a notice.
        Raises UsageError: the question alone is too long. DataError: the chat template refuses the dialogue.
        """
        turns = self._fitting([*self.history, {"role": "user", "content": text}])
        self.last, self._asked = None, (self.history, text)
        prompt = self._prompt(turns)
        answers = [self._answer(speaker, prompt, on_text) for speaker in self.speakers]
        self.history = [*turns, {"role": "assistant", "content": answers[0]}]
        self.last = Exchange(prompt, answers)
        return answers

    def retry(self, on_text: Callable[[str], None] | None = None) -> list[str]:
        """Other answers to the last question. Raises UsageError: none was asked."""
        if self._asked is None:
            raise UsageError("/retry: nothing was asked yet")
        self.history, text = self._asked
        return self.ask(text, on_text)

    def reset(self) -> None:
        """Forget the dialogue, not the system message."""
        self.history, self.last, self._asked = [], None, None

    def instruct(self, text: str | None) -> None:
        """Set the system message, or take it away. Raises UsageError: there is no chat template to write it."""
        if self.plain:
            raise UsageError("/system: without a chat template there is no system message")
        self.system = text

    def demonstration(self) -> dict[str, Any]:
        """The last exchange as a row for `sft`, once. Raises UsageError: none, two models, an empty answer, twice."""
        if len(self.speakers) > 1:
            raise UsageError("/save is for one model; of two say which is better: /left or /right")
        last = self._unsaved("/save")
        if not last.answers[0].strip():
            raise UsageError("/save: the answer is empty")
        last.saved = True
        return {"prompt": last.prompt, "completion": last.answers[0]}

    def preference(self, side: str) -> dict[str, Any]:
        """The last exchange as a pair, once; the dialogue continues with the better answer. `side`: left or right.

        Raises UsageError: none, one model, equal or empty answers, twice.
        """
        if len(self.speakers) < 2:
            raise UsageError(f"/{side} compares two models: prefcli chat REF REF2")
        last = self._unsaved("/" + side)
        if len({text.strip() for text in last.answers} - {""}) < 2:
            raise UsageError(f"/{side}: the answers are the same, or one is empty: no pair")
        chosen, rejected = last.answers if side == "left" else reversed(last.answers)
        last.saved = True
        self.history[-1]["content"] = chosen
        return {"prompt": last.prompt, "chosen": chosen, "rejected": rejected}

    def withdraw(self) -> None:
        """Take the last preference back: the dialogue continues with the first answer, as before it."""
        if self.last is not None:
            self.last.saved = False
            self.history[-1]["content"] = self.last.answers[0]

    def _unsaved(self, command: str) -> Exchange:
        if self.last is None:
            raise UsageError(f"{command}: there is no answer yet")
        if self.last.saved:
            raise UsageError(f"{command}: this answer is saved already; /retry gives another")
        return self.last

    def _prompt(self, turns: list[Message]) -> Prompt:
        if self.plain:
            return "\n".join(
                "".join(turn["content"] for turn in turns[start : start + 2]) for start in range(0, len(turns), 2)
            )
        return [*([{"role": "system", "content": self.system}] if self.system else []), *turns]

    def _fitting(self, turns: list[Message]) -> list[Message]:
        """The turns without the oldest ones, of which a question and its answer go together."""
        kept = turns
        while (over := self._over(self._prompt(kept))) and len(kept) > 1:
            kept = kept[2:]
        if over:
            raise UsageError(
                f"that is {over} tokens too long for the model, with an answer of {self.max_new_tokens}",
                "shorten it, or lower --max-new-tokens",
            )
        if len(kept) < len(turns):
            self.reporter.notice(
                f"the dialogue is longer than the model reads: its {(len(turns) - len(kept)) // 2} oldest turns "
                "are forgotten"
            )
        return kept

    def _over(self, prompt: Prompt) -> int:
        """Tokens that the prompt and an answer have more than a speaker reads."""
        over = 0
        for speaker in self.speakers:
            if (positions := positions_of(speaker.model.config)) is not None:
                over = max(over, len(Encoder(speaker.tokenizer).prompt_ids(prompt)) + self.max_new_tokens - positions)
        return over

    def _answer(self, speaker: Speaker, prompt: Prompt, on_text: Callable[[str], None] | None) -> str:
        encoder = Encoder(speaker.tokenizer)
        ids: list[int] = []
        told = ""

        def tell(text: str) -> None:
            nonlocal told
            if on_text is not None and text.startswith(told):
                on_text(text[len(told) :])
                told = text

        def on_token(_: int, token: int) -> None:
            ids.append(token)
            text = self._tidy(encoder.answer_text(ids))
            if not text.endswith("\ufffd"):  # the first bytes of a character
                tell(text)

        answers = answer(
            speaker.model,
            speaker.tokenizer,
            [Row(prompt)],
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            batch_size=1,
            seed=self.seed,
            on_token=on_token if on_text is not None else None,
            sampler=speaker.sampler,
        )
        self.seed += 1
        text = self._tidy(answers.completions[0])
        tell(text)
        return text

    def _tidy(self, text: str) -> str:
        """A template puts its own space around an answer; a continued text needs the one that it has."""
        return text if self.plain else text.strip()


def open_chat(config: ChatConfig, reporter: Reporter, at_end: Callable[[Callable[[], None]], Any]) -> Chat:
    """The models, loaded. `at_end` is given what is to be called when the chat has ended.

    Raises ArtifactError: a reward model, or none there. UsageError: no room for an answer."""
    check(config.generate, models=1 + (config.ref2 is not None))
    store = Store(config.runs)
    references = [resolve(text, store) for text in (config.ref, config.ref2) if text is not None]
    for reference in references:
        refuse_reward_model(reference)
        if reference.note:
            reporter.notice(reference.note)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device, max(map(parameters_of, references)))
    speakers = []
    for reference in references:
        tokenizer = load_tokenizer(reference, SILENT)  # nothing is padded here, and templates are told of below
        model = load_policy(reference, dtype=dtype, device=device, trainable=False, tokenizer_size=len(tokenizer))
        positions = positions_of(model.config)
        if positions is not None and config.max_new_tokens >= positions:
            raise UsageError(
                f"--max-new-tokens {config.max_new_tokens}: {reference.shown} reads {positions} tokens in all",
                "lower --max-new-tokens",
            )
        sampler = sampler_of(model, tokenizer, config.generate, store.root, reporter, at_end)
        speakers.append(Speaker(reference.shown, model, tokenizer, sampler))
    bare = [speaker.name for speaker in speakers if not has_own_template(speaker.tokenizer)]
    if bare:
        reporter.notice(f"{' and '.join(bare)}: no chat template, so what you type is continued as plain text")
    return Chat(speakers, bool(bare), config.temperature, config.max_new_tokens, config.seed, reporter)
