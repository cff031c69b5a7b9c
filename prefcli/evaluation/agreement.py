"""How far two reward sources agree: the correlation of their ranks, and how often they put two answers in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from prefcli.statistics import ranks
from prefcli.statistics.bootstrap import ROOM, percentile_interval, resample_blocks


def rank_correlation(
    a: Sequence[float], b: Sequence[float], prompts: Sequence[int] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Spearman's ρ of two sources' scores: {"rho", "ci95": [low, high], "answers"}, None where a source has one value.

    `a[i]` and `b[i]` are of the same answer, which is one to the prompt with the number `prompts[i]` (each to its own
    by default); ties have the mean of their ranks. The interval is by bootstrap over prompts, ranked again in each
    resample. Raises ValueError: not as many, or none.
    """
    if not len(a) == len(b) or not a or (prompts is not None and len(prompts) != len(a)):
        raise ValueError("there must be as many scores of both sources, and at least one")
    if len(set(a)) < 2 or len(set(b)) < 2:
        return {"rho": None, "ci95": None, "answers": len(a)}
    numbers = torch.arange(len(a)) if prompts is None else torch.tensor(list(prompts)).unique(return_inverse=True)[1]
    scores = [torch.tensor(list(values), dtype=torch.float64) for values in (a, b)]
    blocks = resample_blocks(int(numbers.max()) + 1, seed, max(16, ROOM // len(a)))
    found = torch.cat([_spearman(scores, counts.T.contiguous()[numbers]) for counts in blocks])
    return {
        "rho": ranks.rank_correlation(a, b),
        "ci95": list(percentile_interval(found[found.isfinite()], int(numbers.max()) + 1)),
        "answers": len(a),
    }


def _spearman(scores: list[Tensor], weights: Tensor) -> Tensor:
    """[resamples] `statistics.ranks.rank_correlation` of all resamples at once, from scores, two times [N]; `weights`
    [N, resamples]: how often each answer counts. NaN where a resample has one value alone."""
    total = weights.sum(0)
    centred = []
    for values in scores:
        ordered, order = values.sort()
        below = torch.cat([torch.zeros_like(total)[None], weights[order].cumsum(0)])  # [i]: of the i lowest
        placed = below[torch.searchsorted(ordered, values)] + below[torch.searchsorted(ordered, values, right=True)]
        centred.append(placed - total)  # the mean of (twice the) mid-ranks, whatever the ties
    x, y = centred
    return (weights * x * y).sum(0) / ((weights * x * x).sum(0) * (weights * y * y).sum(0)).sqrt()


def same_order(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], seed: int = 0) -> dict[str, Any]:
    """Of two answers to one prompt, how often both sources prefer the same: {"share", "ci95", "comparisons"}.

    `a[p][k]` and `b[p][k]` are of answer k to prompt p, as many answers to each. All pairs of a prompt's answers count
    but those that a source holds equal; chance is 0.5. The interval is by bootstrap over prompts. "share" and "ci95"
    are None where no pair is left. Raises ValueError: not as many answers.
    """
    x, y = (torch.tensor([list(values) for values in scores], dtype=torch.float64) for scores in (a, b))
    if x.shape != y.shape or x.dim() != 2:
        raise ValueError("there must be as many answers to each prompt")
    same, compared = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    for k in range(x.shape[1] - 1):
        product = (x[:, k + 1 :] - x[:, k, None]).sign() * (y[:, k + 1 :] - y[:, k, None]).sign()
        same += (product > 0).sum(1)
        compared += (product != 0).sum(1)
    total = int(compared.sum())
    if not total:
        return {"share": None, "ci95": None, "comparisons": 0}
    found = torch.cat([(counts @ same) / (counts @ compared) for counts in resample_blocks(len(x), seed)])
    return {
        "share": float(same.sum()) / total,
        "ci95": list(percentile_interval(found[found.isfinite()], len(x))),
        "comparisons": total,
    }


def agreement(scores: Mapping[str, Sequence[Sequence[float]]], on: str) -> list[dict[str, Any]]:
    """[{"a", "b", "on", "prompts", "answers", "rho", "rho_ci95", "same_order", "same_order_ci95", "comparisons"}, …].

    `scores`: source → [prompts][answers to each]; an entry for every two sources. `on` says what was scored.
    """
    found = []
    for a, b in combinations(scores, 2):
        prompts = [number for number, values in enumerate(scores[a]) for _ in values]
        flat = [[value for values in scores[name] for value in values] for name in (a, b)]
        found_ranks = rank_correlation(flat[0], flat[1], prompts)
        order = same_order(scores[a], scores[b])
        found.append(
            {
                "a": a,
                "b": b,
                "on": on,
                "prompts": len(scores[a]),
                "answers": found_ranks["answers"],
                "rho": found_ranks["rho"],
                "rho_ci95": found_ranks["ci95"],
                "same_order": order["share"],
                "same_order_ci95": order["ci95"],
                "comparisons": order["comparisons"],
            }
        )
    return found
