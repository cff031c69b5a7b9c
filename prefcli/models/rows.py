"""Prompts with their completions as one batch: padded, or packed into one row without padding.

Shapes: B rows, T tokens of the longest prompt with its completion, C tokens of the longest completion. A row is its
prompt, then its completion, then padding. Everything here goes by the lengths, never by a padding token, so a token
that doubles as padding may stand inside a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prefcli.errors import DataError


@dataclass(frozen=True)
class Rows:
    """Prompts with their completions, right-padded. Build it with `pad_rows`.

    Rows that follow each other and have the same prompt share it in the packed form: the answers to one prompt, say.
    """

    input_ids: Tensor  # [B, T]
    prompt_lengths: Tensor  # [B], each at least 1
    completion_lengths: Tensor  # [B]
    read: Tensor | None = None  # [B, C] True on the completion tokens that matter, where not all do

    @property
    def lengths(self) -> Tensor:
        return self.prompt_lengths + self.completion_lengths

    @cached_property
    def attention_mask(self) -> Tensor:
        """[B, T], 1 on prompt and completion."""
        columns = torch.arange(self.input_ids.shape[1], device=self.input_ids.device)
        return (columns < self.lengths[:, None]).long()

    @cached_property
    def mask(self) -> Tensor:
        """[B, C], True on completion tokens that are read."""
        width = int(self.completion_lengths.max())
        mask = torch.arange(width, device=self.input_ids.device) < self.completion_lengths[:, None]
        return mask if self.read is None else mask & self.read[:, :width]

    @cached_property
    def states(self) -> Tensor:
        """[B, C], the column whose hidden state precedes completion token t: prompt length − 1 + t; 0 in padding."""
        columns = self.prompt_lengths[:, None] - 1 + torch.arange(self.mask.shape[1], device=self.input_ids.device)
        return torch.where(self.mask, columns, 0)

    @cached_property
    def targets(self) -> Tensor:
        """[N] the completion tokens that are read, row after row."""
        return self.input_ids.gather(1, (self.states + 1) * self.mask)[self.mask]

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self)

    def select(self, index: Tensor) -> Rows:
        """The rows at `index`, cut to the longest of them."""
        prompt_lengths, completion_lengths = self.prompt_lengths[index], self.completion_lengths[index]
        width = int((prompt_lengths + completion_lengths).max())
        read = None if self.read is None else self.read[index, : int(completion_lengths.max())]
        return Rows(self.input_ids[index, :width], prompt_lengths, completion_lengths, read)


def pad_rows(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad_id: int = 0,
    device: torch.device | str = "cpu",
) -> Rows:
    """Right-padded rows of token ids."""
    if not all(prompts):
        raise DataError("a prompt has no tokens", "every prompt needs at least one token, such as the tokenizer's BOS")
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    return Rows(
        torch.tensor([row + [pad_id] * (width - len(row)) for row in rows], device=device),
        torch.tensor([len(prompt) for prompt in prompts], device=device),
        torch.tensor([len(completion) for completion in completions], device=device),
    )


@dataclass(frozen=True)
class Layout:
    """`Rows` as one row of P tokens: each prompt once, then each of its completions; no padding.

    A token sees those before it in its own prompt, and in its own completion. Its position is the one that it has in
    the padded row, so completions of one prompt start at the same one.
    """

    input_ids: Tensor  # [1, P]
    position_ids: Tensor  # [1, P]
    prompts: Tensor  # [P] which prompt a token belongs to, counted from 0
    branches: Tensor  # [P] 0 in a prompt, k in its k-th completion
    spans: list[tuple[int, int, bool]]  # (start, end, whether there is a single completion) of each prompt
    index: Tensor  # [B, T] where the tokens of the padded rows stand here; 0 for padding

    @staticmethod
    def of(rows: Rows) -> Layout:
        device, width = rows.input_ids.device, rows.input_ids.shape[1]
        ids = rows.input_ids.tolist()
        flat: list[int] = []
        positions: list[int] = []
        prompts: list[int] = []
        branches: list[int] = []
        index: list[list[int]] = []
        starts: list[int] = []
        shared: list[int] = []  # the prompt that the rows at hand share, and where it stands
        start = branch = 0
        for row, before, answer in zip(ids, rows.prompt_lengths.tolist(), rows.completion_lengths.tolist()):
            if row[:before] != shared:
                shared, start, branch = row[:before], len(flat), 0
                starts.append(start)
                flat += shared
                positions += range(before)
                branches += [0] * before
                prompts += [len(starts) - 1] * before
            branch += 1
            at = len(flat)
            flat += row[before : before + answer]
            positions += range(before, before + answer)
            branches += [branch] * answer
            prompts += [len(starts) - 1] * answer
            index.append(
                [*range(start, start + before), *range(at, at + answer)] + [0] * (width - before - answer)
            )  # fmt: skip
        ends = [*starts[1:], len(flat)]
        return Layout(
            torch.tensor([flat], device=device),
            torch.tensor([positions], device=device),
            torch.tensor(prompts, device=device),
            torch.tensor(branches, device=device),
            [(start, end, max(branches[start:end]) < 2) for start, end in zip(starts, ends)],
            torch.tensor(index, device=device),
        )

    @cached_property
    def groups(self) -> list[Group]:
        """The spans side by side, those of like length together: none is padded to more than twice its length."""
        groups: dict[int, list[tuple[int, int, bool]]] = {}
        for span in self.spans:
            groups.setdefault((span[1] - span[0]).bit_length(), []).append(span)
        return [Group(self, spans) for spans in groups.values()]

    @cached_property
    def ungrouped(self) -> Tensor:
        """[P] where each token stands among those of all groups."""
        places = torch.empty_like(self.prompts)
        begin = 0
        for group in self.groups:
            at = torch.arange(begin, begin + group.index.numel(), device=places.device).view(group.index.shape)
            places[group.index[group.real]] = at[group.real]
            begin += group.index.numel()
        return places

    @cached_property
    def segments(self) -> Segments:
        return Segments(self)

    @cached_property
    def counts(self) -> Tensor:
        """[1, P] how many of the padded rows a token stands in."""
        completions = torch.zeros(len(self.spans), dtype=torch.long, device=self.prompts.device)
        completions.scatter_reduce_(0, self.prompts, self.branches, "amax")
        return torch.where(self.branches == 0, completions[self.prompts].clamp(min=1), 1)[None]

    def mask(self, span: int, allowed: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """[L, L] of the span with that number, True where a token (row) sees another (column).

        `allowed` says it of two positions in one text.
        """
        start, end, _ = self.spans[span]
        tokens = torch.arange(start, end, device=self.branches.device)
        return visible(tokens[:, None], tokens, self, allowed)


class Segments:
    """Every prompt and every completion of a packed row as a sequence of its own, for attention over many lengths.

    A prompt sees itself, a completion its prompt and itself, so the row's tokens are the queries as they stand, and
    `keys` are the tokens that each sequence sees, one sequence after the other. The last key is the last query's own.
    """

    def __init__(self, layout: Layout) -> None:
        device = layout.prompts.device
        marks = torch.stack([layout.prompts, layout.branches], 1)
        _, sizes = marks.unique_consecutive(dim=0, return_counts=True)
        ends = sizes.cumsum(0).tolist()
        keys: list[int] = []
        seen: list[int] = []
        prompt = range(0)
        for start, end, branch in zip([0, *ends], ends, layout.branches[[end - 1 for end in ends]].tolist()):
            own = range(start, end)
            prompt = prompt if branch else own
            keys += [*prompt, *own] if branch else own
            seen.append(len(own) + (len(prompt) if branch else 0))
        self.keys = torch.tensor(keys, device=device)  # [K] in the packed row
        self.query_ends = torch.tensor([0, *ends], dtype=torch.int32, device=device)  # [S + 1]
        self.key_ends = torch.tensor([0, *seen], device=device).cumsum(0).to(torch.int32)  # [S + 1]
        self.longest_query, self.longest_key = int(sizes.max()), max(seen)


class Group:
    """S spans of a packed row, each padded on the right to the longest of them, L tokens."""

    def __init__(self, layout: Layout, spans: Sequence[tuple[int, int, bool]]) -> None:
        bounds = torch.tensor([(start, end - 1) for start, end, _ in spans], device=layout.prompts.device)
        columns = torch.arange(max(end - start for start, end, _ in spans), device=bounds.device)
        first, last = bounds[:, :1], bounds[:, 1:]
        self.index = torch.minimum(first + columns, last)  # [S, L] in the packed row; padding repeats the last token
        self.real = first + columns <= last  # [S, L]
        self.single = all(single for _, _, single in spans)
        self._layout = layout

    def mask(self, allowed: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """[S, 1, L, L]: as `Layout.mask`; padding is not seen."""
        query, key = self.index[:, :, None], self.index[:, None, :]
        return (visible(query, key, self._layout, allowed) & self.real[:, None, :])[:, None]


def visible(query: Tensor, key: Tensor, layout: Layout, allowed: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Whether the token at index `query` of the packed row sees the one at `key`.

    What is allowed goes by position: completions of one prompt follow each other here and not in what they mean.
    """
    prompts, branches, positions = layout.prompts, layout.branches, layout.position_ids[0]
    seen = (key <= query) & (prompts[key] == prompts[query])
    seen = seen & ((branches[key] == 0) | (branches[key] == branches[query]))
    return seen & allowed(positions[query], positions[key])


def parts(costs: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `costs` in parts whose costs add up to at most `budget`: first fit, the dearest first.

    What costs more than the budget is a part of its own. Indices are in order within a part.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        place = next((p for p, left in enumerate(room) if costs[i] <= left), len(found))
        if place == len(found):
            found.append([])
            room.append(budget)
        found[place].append(i)
        room[place] -= costs[i]
    return [sorted(part) for part in found]
