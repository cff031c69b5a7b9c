"""Sampling completions: a KV-cached loop that draws from the plain softmax at a temperature.

No top-k, top-p or penalties: what is drawn has exactly the probability that `models.logps` gives it later, which is
what makes the first ratio of PPO 1. A model that was packed reads its prompts without padding; equal prompts that
follow each other are read once; keys and values are written into buffers of their final size; finished rows leave the
batch, so that a long answer does not pay for short ones. A model that does not answer a padded prompt as it answers it
alone gets prompts of one length at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, cycle, groupby, islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from prefcli.errors import DataError
from prefcli.models.classes import AFTER_PADDING
from prefcli.models.logps import completion_logits, runs_packed, tolerance, transformers_model, unwrap
from prefcli.models.rows import pad_rows
from prefcli.models.sharding import at_own_pace


class NotFiniteError(RuntimeError):
    """The logits are not finite: no token can be drawn."""


class Sampled(NamedTuple):
    """Completions, in the order of their prompts, each with its EOS where it ended by itself."""

    ids: list[list[int]]
    logps: list[list[float]] | None  # log-probability of each token under the sampler; None: the sampler is the model


class Sampler(Protocol):
    """What answers prompts for a model: the model itself, or servers that hold its weights (`engine.Engine`)."""

    def update(self) -> None:
        """The model has new weights: answers are theirs from here on."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        eos_ids: frozenset[int],
        pad_id: int,
        temperature: float,
        draws: Tensor | None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> Sampled:
        """The arguments are those of `generate`. A server draws by itself, and only asks whether there are `draws`."""

    def close(self) -> None:
        """It is not asked any more."""


class InProcess:
    """The model answers by itself, in this process."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def update(self) -> None:
        pass

    def sample(self, prompts: Sequence[Sequence[int]], **how: Any) -> Sampled:
        return Sampled(generate(self._model, prompts, **how), None)

    def close(self) -> None:
        pass


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int] | frozenset[int],
    pad_id: int = 0,
    temperature: float = 1.0,
    draws: Tensor | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """One completion for each prompt, in order, as token ids.

    A completion ends with its EOS where one was drawn, and is `max_new_tokens` long otherwise. `draws` [B,
    max_new_tokens], uniform in [0, 1), decide each token by the inverse of its distribution function, so that an
    answer does not depend on the others in its batch; without them the most likely token is taken. At most `batch_size`
    prompts run together, shortest first; `progress` is told the number of answers that a batch has finished, `on_token`
    each token as it is drawn: which completion's, and its id.

    Raises NotFiniteError where the logits are not finite.
    """
    if not all(prompts):
        raise DataError("a prompt has no tokens", "every prompt needs at least one token, such as the tokenizer's BOS")
    model = unwrap(model)  # a wrapper's forward may synchronise
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    size = batch_size or max(1, len(prompts))

    def pick(part: list[int], logits: Tensor, rows: list[int], step: int) -> Tensor:
        if draws is None:
            largest, found = logits.max(-1)
            if not bool(torch.isfinite(largest).all()):
                raise NotFiniteError("the logits are not finite")
            return found
        below = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1)
        total = below[:, -1:]
        if not bool(torch.isfinite(total).all()):
            raise NotFiniteError("the logits are not finite")
        u = draws[[part[row] for row in rows], step, None].to(below)
        return torch.searchsorted(below, u * total, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)

    def tell(part: list[int], row: int, token: int) -> None:
        if on_token is not None:
            on_token(part[row], token)

    completions: list[list[int]] = [[] for _ in prompts]
    with evaluation_mode(model), at_own_pace(model):  # processes decode for different lengths
        groups = [order]
        if len({len(p) for p in prompts}) > 1 and not _pads_exactly(model, prompts, pad_id):
            groups = [list(group) for _, group in groupby(order, lambda i: len(prompts[i]))]
        for part in (group[start : start + size] for group in groups for start in range(0, len(group), size)):
            found = _decode(
                model,
                [prompts[i] for i in part],
                partial(pick, part),
                max_new_tokens,
                frozenset(eos_ids),
                pad_id,
                partial(tell, part),
            )
            for i, completion in zip(part, found):
                completions[i] = completion
            if progress is not None:
                progress(len(part))
    return completions


def _decode(
    model: nn.Module,
    prompts: list[Sequence[int]],
    pick: Callable[[Tensor, list[int], int], Tensor],
    max_new_tokens: int,
    eos_ids: frozenset[int],
    pad_id: int,
    tell: Callable[[int, int], None],
) -> list[list[int]]:
    device = next(model.parameters()).device
    accepted = _accepted_arguments(model)
    if "past_key_values" not in accepted:
        return _decode_anew(model, prompts, pick, max_new_tokens, eos_ids, tell)
    width = max(map(len, prompts))
    cache = _buffers(model, width + max_new_tokens)
    read, owner = _unique(prompts) if cache is not None else (prompts, list(range(len(prompts))))
    ids = torch.tensor([[pad_id] * (width - len(p)) + list(p) for p in read], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in read], device=device)
    completions: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which completion each row of the batch belongs to
    running = [True] * len(rows)
    for step in range(max_new_tokens):
        if step == 0 and runs_packed(model) and cache is not None and all(type(x) is _Buffer for x in cache.layers):
            logits = _read_packed(model, read, cache, width)
        else:
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            extra = {"position_ids": positions, "logits_to_keep": 1, "output_router_logits": False}
            output = model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True,
                **{name: value for name, value in extra.items() if name in accepted},
            )  # fmt: skip
            if not hasattr(output, "past_key_values"):  # it keeps a state inside, which other rows would find there
                return _decode_anew(model, prompts, pick, max_new_tokens, eos_ids, tell)
            cache, logits = output.past_key_values, output.logits[:, -1]
        if step == 0 and len(read) < len(prompts):
            index = torch.tensor(owner, device=device)
            cache.batch_select_indices(index)
            logits, mask = logits[index], mask[index]
        ids = pick(logits, rows, step)[:, None]
        for row, token in enumerate(ids[:, 0].tolist()):
            if running[row]:
                completions[rows[row]].append(token)
                running[row] = token not in eos_ids
                tell(rows[row], token)
        if not any(running) or step + 1 == max_new_tokens:
            break
        if 4 * sum(running) <= 3 * len(running) and _can_shrink(cache):
            kept = [row for row, is_running in enumerate(running) if is_running]
            index = torch.tensor(kept, device=device)
            cache.batch_select_indices(index)
            ids, mask = ids[index], mask[index]
            rows, running = [rows[row] for row in kept], [True] * len(kept)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return completions


def _decode_anew(
    model: nn.Module,
    prompts: list[Sequence[int]],
    pick: Callable[[Tensor, list[int], int], Tensor],
    max_new_tokens: int,
    eos_ids: frozenset[int],
    tell: Callable[[int, int], None],
) -> list[list[int]]:
    """As `_decode`, each token from the whole text: for models with a state of their own kind instead of a cache.

    Padding follows the texts, since such a state runs over what stands before them.
    """
    completions: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for step in range(max_new_tokens):
        texts = [[*prompts[row], *completions[row]] for row in rows]
        read = pad_rows(texts, [[0]] * len(texts), device=next(model.parameters()).device)  # predicted, not read
        tokens = pick(completion_logits(model, read), rows, step).tolist()
        for row, token in zip(rows, tokens):
            completions[row].append(token)
            tell(row, token)
        rows = [row for row, token in zip(rows, tokens) if token not in eos_ids]
        if not rows:
            break
    return completions


PADS = "answers_padded_prompts_exactly"


def _pads_exactly(model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int) -> bool:
    """Whether this model continues a prompt padded on the left as it continues it alone.

    One with a cache of keys and values that is told its positions does. Others are tried, once: a state may take
    padding in, or give the mask another length than it has, and positions that a model counts from its cache's length
    count padding (BART's decoder). `prompts` are where the tokens of that come from.
    """
    if _counts_otherwise(model):
        return False
    if _buffers(model, 1) is not None and "position_ids" in _accepted_arguments(model):
        return True
    if not hasattr(model, PADS):
        tokens = list(islice(cycle(chain.from_iterable(prompts)), 32))
        short, long, answer = tokens[:5], tokens[5:28], tokens[28:]

        def continued(beside: list[Sequence[int]]) -> Tensor:
            seen: list[Tensor] = []

            def pick(logits: Tensor, rows: list[int], step: int) -> Tensor:
                seen.append(logits[0].float())
                return torch.full((len(rows),), answer[step], device=logits.device)

            _decode(model, [short, *beside], pick, len(answer), frozenset(), pad_id, lambda row, token: None)
            return torch.stack(seen)

        alone = continued([])
        setattr(model, PADS, float((continued([long]) - alone).abs().max()) <= tolerance(model, alone))
    return bool(getattr(model, PADS))


def _read_packed(model: nn.Module, prompts: list[Sequence[int]], cache: Any, width: int) -> Tensor:
    """[B, V] logits of the first new tokens; the prompts' keys and values are in the cache then, padded on the left."""
    rows = pad_rows(prompts, [[0]] * len(prompts), device=next(model.parameters()).device)  # predicted, not read
    left = torch.arange(width, device=rows.input_ids.device) - (width - rows.prompt_lengths[:, None])  # [B, width]
    for layer in cache.layers:
        layer.places = rows.layout.index.gather(1, left.clamp(min=0))
    return completion_logits(model, rows, cache)


class _Buffer(DynamicLayer):
    """A layer's keys and values, written into tensors of their final size: growing them would copy all at each step.

    `places` [B, T] say where the tokens of each row stand in the one packed row that is read next.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._buffers: list[Tensor] = []
        self.places: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start, places = self.get_seq_length(), self.places
        new = (key_states, value_states)
        if places is not None:
            self.places = None
            self.update(*(states[0, :, places].transpose(0, 1) for states in new))
            return key_states, value_states
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [x.new_empty(*x.shape[:2], self._capacity, x.shape[3]) for x in new]
        for buffer, states in zip(self._buffers, new):
            buffer[:, :, start : start + states.shape[2]] = states
        return self._show(start + key_states.shape[2])

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)
        return self.keys, self.values


ROWS_ALONE = (_Buffer, DynamicLayer, DynamicSlidingWindowLayer)


def _buffers(model: nn.Module, capacity: int) -> DynamicCache | None:
    """A cache for `capacity` tokens; None for a model that needs a kind of its own, which it then makes itself."""
    cache = DynamicCache(config=getattr(model, "config", None))
    if not cache.layers or not all(type(layer) in ROWS_ALONE for layer in cache.layers):
        return None
    cache.layers = [_Buffer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _unique(prompts: list[Sequence[int]]) -> tuple[list[Sequence[int]], list[int]]:
    """The prompts, those equal to the one before left out, and which of them each one is."""
    read: list[Sequence[int]] = []
    owner = []
    for prompt in prompts:
        if not read or list(prompt) != list(read[-1]):
            read.append(prompt)
        owner.append(len(read) - 1)
    return read, owner


def _can_shrink(cache: Any) -> bool:
    """Whether its rows are all in keys and values: a model's own cache may leave a state beside them as it is."""
    return type(cache) is DynamicCache and all(type(layer) in ROWS_ALONE for layer in cache.layers)


def _accepted_arguments(model: nn.Module) -> set[str]:
    """Names that the model's own forward takes; PEFT's wrapper takes anything and passes it on."""
    accepted = set(inspect.signature(transformers_model(model).forward).parameters)
    return accepted - {"position_ids"} if _counts_otherwise(model) else accepted


def _counts_otherwise(model: nn.Module) -> bool:
    """Whether its positions do not begin at 0: then it counts them itself, and one length at a time."""
    return transformers_model(model).config.get_text_config().model_type in AFTER_PADDING


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """eval() for a while; afterwards each module has the training flag that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
