"""From rows to token ids. The boundary between prompt and answer is the same in training, scoring and sampling.

The prompt is tokenised alone, as it is when the model is sampled, and the answer apart: no token spans the two. An
answer is tokenised as what it is, the continuation of a text: tokenizers after SentencePiece's fashion put a space
before every text they are given, which a sampled answer does not have. It ends with the end-of-sequence token and
nothing after it (chat templates like to add a newline there, which a sampled answer never has).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefcli.data.row import CALLS, THOUGHTS, AnswerMessage, Message, Prompt, Row, answer_of, message_of, tools_apart
from prefcli.errors import DataError

# Of a text that is cut to N tokens, its first characters are tokenised alone: more where they are not enough.
CHARACTERS = 8  # a token
SPARE = 64  # tokens behind the cut, which the end of what was tokenised may have changed
LEADS = ("\n", ".", ":")  # characters to set before a text so that it is a continuation
THINK = "<think>"
MARK = "\ue000"  # a text that no row has, to see where a template writes a message


@dataclass
class Encoder:
    """A tokenizer, used the one way the project uses it.

    `earlier` counts the answers before the last that `demo` has met, `untrained` those of which it found no token.
    """

    tokenizer: PreTrainedTokenizerBase
    earlier: int = 0
    untrained: int = 0
    _rendered: tuple[Prompt, str] = field(default=("", ""), repr=False)
    _spans: tuple[str, list[tuple[int, int]]] = field(default=("", []), repr=False)  # of the tokens of a text

    def prompt_ids(self, prompt: Prompt, most: int | None = None) -> list[int]:
        """Ids of a prompt that awaits an answer; never none, since a token must stand before the first that is
        predicted. With `most`, of a text that is far longer only the beginning, but more than `most`."""
        if not isinstance(prompt, str):
            return self.text_ids(self._beginning(self.render(prompt), most)) or _bos(self.tokenizer)
        ids, first = self.text_ids(self._beginning(prompt, most)), self.first
        # A text that was rendered elsewhere may bring its own.
        return (ids if ids[: len(first)] == first else first + ids) or _bos(self.tokenizer)

    def completion_ids(
        self, prompt: Prompt, completion: str, most: int | None = None, *, ended: bool = True
    ) -> list[int]:
        """Ids of an answer, ending with the end-of-sequence token; of one that was cut (not `ended`) without it. With
        `most` as `prompt_ids`."""
        if not ended:
            return self.text_ids(completion) if prompt == "" else self.continued_ids(completion)
        text = completion
        if not isinstance(prompt, str):
            rendered, before = self.render(prompt, completion), self.render(prompt)
            # A template that renders the prompt otherwise once an answer follows (it drops thoughts, say) is not
            # used for the answer: what the model would be sampled after is the generation prompt.
            if rendered.startswith(before):
                text = rendered[len(before) :]
            elif isinstance(completion, AnswerMessage) and any(completion.message.get(name) for name in CALLS):
                text = self._written([*prompt, message_of(completion)], len(prompt), rendered, False)[0]
            else:
                text = _after(before, completion)
        ends = not isinstance(prompt, str) and str(self.tokenizer.eos_token) in _behind(completion, text)
        beginning = self._beginning(text, most)
        ids = self.text_ids(beginning) if prompt == "" else self.continued_ids(beginning)
        eos, rest = self.tokenizer.eos_token_id, text[len(beginning) :]
        if rest and (eos not in ids or not rest.isspace()):
            return ids
        end = len(ids) - ids[::-1].index(eos) if eos in ids else 0
        if end and (ends or not str(self.tokenizer.decode(ids[end:], skip_special_tokens=True)).strip()):
            return ids[:end]
        return ids if rest else [*ids, eos]  # an end token in the middle of an answer does not end it

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text as it is: nothing is added."""
        if self._backend is not None and self._backend.truncation is None and self._backend.padding is None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _beginning(self, text: str, most: int | None) -> str:
        """The text, or, of one far longer than `most` tokens, as much of it as has more than them, up to a space."""
        size = len(text) if most is None else (most + SPARE) * CHARACTERS
        while size < len(text):
            space = text.rfind(" ", size - size // 4, size)
            beginning = text[: space if space > 0 else size]
            if len(self.text_ids(beginning)) > (most or 0) + SPARE:
                return beginning
            size *= 4
        return text

    def continued_ids(self, text: str) -> list[int]:
        """Ids of a text that continues another: without the space that some tokenizers put before a first word."""
        for lead, ids in self._leads if text else ():
            both = self.text_ids(lead + text)
            if both[: len(ids)] == ids:
                return both[len(ids) :]
        return self.text_ids(text)

    def answer_text(self, ids: list[int]) -> str:
        """The text of a sampled answer: what `completion_ids` of it came from, its special tokens left out.

        Tokenizers that put a space before a text take one away from what they decode: it may have been the answer's.
        """
        for lead, before in self._leads[:1]:
            text = str(self.tokenizer.decode(before + ids, skip_special_tokens=True))
            if text.startswith(lead):
                return text[len(lead) :]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def render(self, prompt: list[Message], completion: str | None = None) -> str:
        """A dialogue in the chat template's words: awaiting an answer, or with one.

        Raises DataError: the template refuses it.
        """
        if completion is not None:
            messages = [*prompt, message_of(completion)]
            text = self._template(messages, False)
            self._refuse_unwritten(messages, text, False, last=True)
            return text
        if prompt != self._rendered[0]:  # both sides of a pair ask for it
            text = self._template(prompt, True)
            self._refuse_unwritten(prompt, text, True)
            self._rendered = ([dict(message) for message in prompt], text)
        return self._rendered[1]

    def refusal(self, row: Row, prompt_alone: bool = False) -> str | None:
        """Why the template refuses a row's dialogue, or None. Of a row with a completion that is the answer."""
        if isinstance(row.prompt, str):
            return None
        answers = [row.completion] if row.completion is not None else row.answers
        try:
            self.render(row.prompt)
            for answer in () if prompt_alone else answers:
                self.render(row.prompt, answer)
        except DataError as error:
            return error.message
        return None

    @cached_property
    def _backend(self) -> Any:
        """The tokenizer's own backend, where the tokenizer does nothing else: calling it takes a third of the time."""
        plain = getattr(self.tokenizer, "is_fast", False) and not self.tokenizer.split_special_tokens
        return self.tokenizer.backend_tokenizer if plain else None

    @cached_property
    def first(self) -> list[int]:
        """The tokens that the tokenizer puts before every text: BOS, [CLS], or none."""
        whole, bare = list(self.tokenizer("a")["input_ids"]), self.text_ids("a")
        starts = [i for i in range(len(whole)) if bare and whole[i : i + len(bare)] == bare]
        return whole[: starts[0]] if starts else []

    @cached_property
    def _leads(self) -> list[tuple[str, list[int]]]:
        """Leads with their ids; none for a tokenizer that reads a continuation as it reads any text."""
        unknown = self.tokenizer.unk_token_id  # would melt into an unknown letter behind it
        found = [(lead, ids) for lead in LEADS if (ids := self.text_ids(lead)) and unknown not in ids]
        found = [(lead, ids) for lead, ids in found if self.text_ids(lead + "a")[: len(ids)] == ids]
        alone = self.text_ids("a")
        return found if any(self.text_ids(lead + "a")[len(ids) :] != alone for lead, ids in found) else []

    def demo(self, row: Row, train_on_prompt: bool, most: int | None = None) -> tuple[list[int], list[int]]:
        """(ids, mask) of a demonstration; the mask is 1 where the loss reads: every answer of a dialogue. With `most`,
        the first `most` are right, and there are more where there would be."""
        assert row.completion is not None
        prompt = self.prompt_ids(row.prompt, most)
        answer = self.completion_ids(row.prompt, row.completion, most and max(1, most - len(prompt)))
        mask = [1] * len(prompt) if train_on_prompt else self._earlier_answers(row.prompt, prompt, most)
        return prompt + answer, mask + [1] * len(answer)

    def _earlier_answers(self, prompt: Prompt, ids: list[int], most: int | None = None) -> list[int]:
        mask = [0] * len(ids)
        if isinstance(prompt, str):
            return mask
        for position, message in enumerate(prompt):
            if message["role"] == "assistant" and position:
                before = self._beginning(self._template(prompt[:position], True), most)
                start = _common(self.text_ids(before), ids)
                if most is not None and start >= most:
                    break  # all further ones follow what is kept
                self.earlier += 1
                answer = self.completion_ids(prompt[:position], answer_of(message), most)
                if most is not None:
                    answer = answer[: most - start]
                end = start + len(answer)
                if ids[start:end] != answer:  # it is written otherwise than as the last one
                    start, end = self._tokens_of(prompt, position, ids, most)
                    if most is not None and start >= most:
                        self.earlier -= 1
                        break
                    self.untrained += end <= start
                mask[start:end] = [1] * (end - start)
        return mask

    def _tokens_of(self, prompt: list[Message], position: int, ids: list[int], most: int | None) -> tuple[int, int]:
        """Where an earlier answer's tokens stand in those of the prompt, with what closes it."""
        whole = self.render(prompt)
        text, start = self._written(prompt, position, whole, True)
        end = start + len(text)
        if self._backend is not None:
            if self._spans[0] != (beginning := self._beginning(whole, most)):
                self._spans = beginning, self._backend.encode(beginning, add_special_tokens=False).offsets
            spans = self._spans[1]
            return sum(last <= start for _, last in spans), sum(first < end for first, _ in spans) if text else 0
        before, after = (self.text_ids(self._beginning(whole[:at], most)) for at in (start, end))
        return _common(before, ids), _common(after, ids)

    def _written(self, messages: list[Message], position: int, whole: str, awaits: bool) -> tuple[str, int]:
        """What a template writes of an answer, closed as it closes one, and where in `whole` that begins.

        It is what becomes another text where another answer stands in its place; "" where there is no such part.
        """
        other = {"role": "assistant", "content": MARK}
        try:
            text = self._template([*messages[:position], other, *messages[position + 1 :]], awaits)
            asked = self._template(messages[:position], True)
            closing = self._template([*messages[:position], other], False).rpartition(MARK)[2].rstrip()
        except DataError:  # the results of calls need the calls before them
            return self._as_last(messages[: position + 1], whole)
        after = text.rpartition(MARK)[2]
        start, end = _common(whole, text), len(whole) - len(after)
        if MARK not in text or not whole.endswith(after) or start >= end:
            return self._as_last(messages[: position + 1], whole)
        start = len(asked) if whole.startswith(asked) else start
        eos = str(self.tokenizer.eos_token)
        closing = closing[: closing.index(eos) + len(eos)] if eos in closing else closing
        return whole[start : end + len(closing) if after.startswith(closing) else end], start

    def _as_last(self, messages: list[Message], whole: str) -> tuple[str, int]:
        """The last answer as it is written where nothing follows, if `whole` continues so, but for the end."""
        asked, last = self._template(messages[:-1], True), self._template(messages, False)
        same = _common(whole, last)
        if (
            not last.startswith(asked)
            or same <= len(asked)
            or last[same:].strip() not in ("", str(self.tokenizer.eos_token))
        ):
            return "", 0
        return whole[len(asked) : same], len(asked)

    def _refuse_unwritten(self, messages: list[Message], text: str, awaits: bool, last: bool = False) -> None:
        """Raise DataError where the template passes over a message: its text, or the calls that are all it has."""
        for position, message in enumerate(messages):
            is_last = last and position == len(messages) - 1
            if last and not is_last:
                continue  # looked at with the prompt
            content = message["content"].strip()
            parts = [name for name in (*CALLS, *(THOUGHTS if is_last and not content else ())) if message.get(name)]
            if message["role"] != "assistant" and content and content not in text:
                other = message | {"content": MARK}
            elif parts and not content:
                other = {name: part for name, part in message.items() if name not in parts}
            else:
                continue
            try:
                same = self._template([*messages[:position], other, *messages[position + 1 :]], awaits) == text
            except DataError:  # so it reads it
                same = False
            if same:
                what = " and ".join(parts) or "message"
                raise DataError(
                    f"the model's chat template leaves out the {what} of the role {message['role']!r}",
                    "use a model whose template writes it, give the role another name, or leave such rows out with "
                    "--skip-bad",
                )

    def _template(self, messages: list[Message], add_generation_prompt: bool) -> str:
        plain, tools = tools_apart(messages)
        apply = partial(
            self.tokenizer.apply_chat_template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            **({"tools": tools} if tools else {}),
        )
        try:
            try:
                return str(apply(plain))
            except Exception:  # DeepSeek's wants the arguments of calls as JSON, which others write themselves
                if not any(message.get("tool_calls") for message in plain):
                    raise
                return str(apply([_with_json_arguments(message) for message in plain]))
        except Exception as error:  # the template's own raise_exception, or any jinja error
            raise DataError(
                f"the model's chat template refuses a dialogue ({error}): roles "
                + ", ".join(message["role"] for message in messages),
                "most templates want user and assistant to take turns, with at most one system message first",
            ) from error


def _behind(completion: str, text: str) -> str:
    """What a template writes after an answer; all of it, where the answer is not found as it is."""
    answer = completion.strip()
    at = text.rfind(answer) if answer else -1
    return text if at < 0 else text[at + len(answer) :]


def _after(before: str, answer: str) -> str:
    """An answer behind a prompt that its own rendering does not begin with: a thought that the prompt has begun is not
    begun again, and thoughts that stand apart are left out where it has ended them."""
    if before.rstrip().endswith(THINK):
        return answer.lstrip().removeprefix(THINK).removeprefix("\n")
    return str(answer.message["content"]) if isinstance(answer, AnswerMessage) else answer


def _with_json_arguments(message: Message) -> Message:
    calls = []
    for call in message.get("tool_calls", []):
        function = call.get("function", {})
        text = json.dumps(function.get("arguments", {}), ensure_ascii=False)
        calls.append(call | {"function": function | {"arguments": text}})
    return message | {"tool_calls": calls} if calls else message


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The first token of a plain text without a prompt: a token must precede the first that is predicted."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [first]


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    length = 0
    for a, b in zip(first, second):
        if a != b:
            break
        length += 1
    return length
