"""Whether a server holds this very model: a fixed probe, asked at every update before any answer is used.

Three texts are scored, which shows the weights, and continued for a few tokens at temperature 2, which shows the
sampler: temperature, top-k, top-p and penalties all show in the log-probabilities of what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import Tensor, nn

from prefcli.data.encoder import Encoder
from prefcli.models.generation import NotFiniteError, evaluation_mode
from prefcli.models.logps import computes_in, token_logps
from prefcli.models.rows import pad_rows
from prefcli.models.served import Answer
from prefcli.models.tokenizers import has_own_template

TEXTS = (
    "The old lighthouse keeper counted seven ships before breakfast, wrote their names into a blue notebook, and asked "
    "himself which of them would come back before the winter storms began.",
    "def area(width, height):\n    return width * height\n\nprint(area(3, 14) + 0.5)  # 42.5, in metres",
    "Sehr geehrte Damen und Herren, am 7. März um 18:30 Uhr beginnt die Führung; der Eintritt kostet 12,50 €.",
)
DIALOGUE = [{"role": "user", "content": "How many days are in a week?"}]
MOST = 48  # tokens of a text
DRAWN, HOT = 8, 2.0  # tokens that continue each text, and their temperature
# Mean |difference of log-probabilities| that rounding may make. vLLM on a CPU is 6e-5 at most from transformers in
# float32; bfloat16 differs by 0.006 on average (docs/engine.md).
TOLERANCES = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}


class Fault(NamedTuple):
    said: str
    hint: str


class Probe:
    """The probe of one model; `take` has it score the texts with the weights that it has now."""

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        encoder = Encoder(tokenizer)
        self.prompts = [encoder.prompt_ids(text)[:MOST] for text in TEXTS]
        self._texts = [[prompt[:1] for prompt in self.prompts], [prompt[1:] for prompt in self.prompts]]
        self._now: Tensor | None = None
        self._before: Tensor | None = None

    def take(self) -> None:
        """There are new weights. Raises NotFiniteError: they give what is no number."""
        self._before, self._now = self._now, self._logps(*self._texts)
        if not bool(self._now.isfinite().all()):
            raise NotFiniteError("the logits are not finite")

    def tokens_asked(self) -> list[tuple[str, dict[str, Any], list[int]]]:
        """What the server is asked to make ids of, and the ids: (what it shows, request, ids)."""
        text = " ".join(TEXTS)
        asked: list[tuple[str, dict[str, Any], list[int]]] = [
            ("tokenizer", {"prompt": text}, list(self._tokenizer(text)["input_ids"]))
        ]
        if self._tokenizer.chat_template and has_own_template(self._tokenizer):
            rendered = self._tokenizer.apply_chat_template(DIALOGUE, tokenize=False, add_generation_prompt=True)
            ids = Encoder(self._tokenizer).text_ids(rendered)
            asked.append(("chat template", {"messages": DIALOGUE, "add_generation_prompt": True}, ids))
        return asked

    def fault(self, scored: Sequence[Answer], drawn: Sequence[Answer]) -> Fault | None:
        """What the server's answers show: `scored` with the texts' own log-probabilities, `drawn` at HOT."""
        assert self._now is not None
        told = torch.tensor([logp for answer in scored for logp in answer.prompt_logps])
        dtype = computes_in(self._model)
        most = TOLERANCES.get(dtype, 3e-2)
        off = _apart(told, self._now)
        found = f"log-probabilities of three fixed texts are {off:.2g} apart on average"
        if self._before is not None and _apart(told, self._before) < off / 2:
            return Fault(
                f"it still has the weights of the previous update: {found}, and nearer to those",
                "is a proxy in front of it, or does it hold several copies of the model, and not all were updated?",
            )
        if not off <= most:
            name = str(dtype).removeprefix("torch.")
            if isinstance(self._model, PeftModel) and _apart(told, self._without_adapter()) < off / 2:
                return Fault(f"it answers without the adapter: {found}", "start it with --enable-lora")
            return Fault(
                f"it has other weights than the model here: {found}, and rounding in {name} makes up to {most:g}",
                f"serve the model that is named here, with --dtype {name}; docs/engine.md",
            )
        return self._of_sampler(drawn, most)

    def _of_sampler(self, drawn: Sequence[Answer], most: float) -> Fault | None:
        ids = [answer.ids for answer in drawn]
        told = torch.tensor([logp for answer in drawn for logp in answer.logps])
        expected = self._logps(self.prompts, ids, HOT)
        off = _apart(told, expected)
        if off <= most:
            return None
        found = f"log-probabilities at temperature {HOT:g} are {off:.2g} apart on average"
        if _apart(told, self._logps(self.prompts, ids)) <= most:
            return Fault(
                f"its log-probabilities leave out the temperature: {found}",
                "start it with --logprobs-mode processed_logprobs",
            )
        if float((told - expected).min()) > -most:
            return Fault(
                f"it cuts off what is unlikely (top-k, top-p or min-p): {found}",
                "start it with --generation-config vllm, and without --override-generation-config",
            )
        return Fault(
            f"it draws from another distribution: {found}", "does it use penalties, or has it cached other weights?"
        )

    @torch.no_grad()
    def _logps(
        self, prompts: Sequence[Sequence[int]], ids: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> Tensor:
        """[tokens] of all `ids` one after the other, on the CPU."""
        rows = pad_rows(prompts, ids, device=next(self._model.parameters()).device)
        with evaluation_mode(self._model):
            found = token_logps(self._model, rows, temperature)
        return found.logps[found.mask].float().cpu()

    def _without_adapter(self) -> Tensor:
        model: Any = self._model
        with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
            return self._logps(*self._texts)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())
