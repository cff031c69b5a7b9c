"""Reward over-optimisation (Gao, Schulman and Hilton, arXiv 2210.10760): the proxy reward rises, the gold one turns.

With d = √KL and R the reward above that at the start, their section 3 finds

    best of n    R(d) = d (α − β d)         highest at d* = α / 2β
    RL           R(d) = d (α − β log d)     highest at d* = exp(α/β − 1)

Both are linear in α and β, so least squares has a closed form, and 2,000 resamples of prompts cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from prefcli.statistics.bootstrap import bootstrap_interval, percentile_interval, resample_counts

Form = Literal["best-of-n", "rl"]
LEAST = 3  # points beside the start: two parameters go through any two


def best_of_n_kl(n: int) -> float:
    """KL(best of n ‖ one answer) in nats, log n − (n − 1)/n: an upper bound, exact where no answer comes twice and no
    two have the same score (Beirami et al., arXiv 2401.01879)."""
    return math.log(n) - (n - 1) / n


def best_of_n_values(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """The expected proxy and gold score of the answer that the proxy likes best among n, each [prompts, N].

    `proxy[p][k]` and `gold[p][k]` are of answer k to prompt p, N answers to each. Column n − 1 is the mean over all
    subsets of n of the N answers, so unbiased: in ascending order of the proxy, answer i (from 1) is the best of
    C(i − 1, n − 1) of the C(N, n) subsets. Of answers that the proxy holds equal each is as likely.

    Raises ValueError: no prompt, no answer, or not as many to each prompt.
    """
    scores, judged = (torch.tensor([list(row) for row in rows], dtype=torch.float64) for rows in (proxy, gold))
    if scores.shape != judged.shape or scores.dim() != 2 or not scores.numel():
        raise ValueError("there must be as many answers to each prompt, and at least one")
    count = scores.shape[1]
    weights = torch.tensor(
        [[math.comb(i, n - 1) / math.comb(count, n) for n in range(1, count + 1)] for i in range(count)],
        dtype=torch.float64,
    )
    ordered, order = scores.sort(1)
    return ordered @ weights, _mean_of_equal(ordered, judged.gather(1, order)) @ weights


def _mean_of_equal(ordered: Tensor, values: Tensor) -> Tensor:
    """`values` [prompts, N], each replaced by the mean of those whose `ordered` value, ascending, is the same."""
    group = torch.zeros(ordered.shape, dtype=torch.int64)
    group[:, 1:] = (ordered.diff(dim=1) != 0).cumsum(1)
    sums, sizes = (torch.zeros_like(values).scatter_add_(1, group, x) for x in (values, torch.ones_like(values)))
    return sums.gather(1, group) / sizes.gather(1, group)


def best_of_n_curve(proxy: Sequence[Sequence[float]], gold: Sequence[Sequence[float]], seed: int = 0) -> dict[str, Any]:
    """{"kind": "best-of-n", "points": [{"n", "kl", "proxy", "proxy_ci95", "gold", "gold_ci95"}, …], "proxy_fit",
    "gold_fit"}: n from 1 to N, the scores as in `best_of_n_values`, the fits as in `_fit_with_intervals`."""
    scores, judged = best_of_n_values(proxy, gold)
    prompts, count = scores.shape
    kl = [best_of_n_kl(n) for n in range(1, count + 1)]
    named = [{"n": n} for n in range(1, count + 1)]
    return _curve("best-of-n", named, torch.tensor(kl, dtype=torch.float64).expand(prompts, -1), scores, judged, seed)


def training_curve(
    names: Sequence[str],
    kl: Sequence[Sequence[float]],
    proxy: Sequence[Sequence[float]],
    gold: Sequence[Sequence[float]],
    seed: int = 0,
) -> dict[str, Any]:
    """As `best_of_n_curve`, with "kind": "rl" and points of {"ref", "kl", "proxy", …}.

    `names`: the models, the start first. `kl[m][p]`, `proxy[m][p]`, `gold[m][p]` are of model m on prompt p, the KL in
    nats to the start, so 0 for the start itself. Raises ValueError: not as many of each, or none.
    """
    nats, scores, judged = (
        torch.tensor([list(row) for row in rows], dtype=torch.float64).T for rows in (kl, proxy, gold)
    )
    if not nats.shape == scores.shape == judged.shape or nats.shape[-1:] != (len(names),) or not names:
        raise ValueError("there must be as many values of each model")
    nats = nats.clamp(min=0)  # of equal models it is 0 up to rounding
    return _curve("rl", [{"ref": name} for name in names], nats, scores, judged, seed)


def height(fit: dict[str, Any], kind: Form, d: float) -> float:
    """R at d > 0 by a fit."""
    return float(d * (fit["alpha"] - fit["beta"] * (d if kind == "best-of-n" else math.log(d))))


def _solve(d: Tensor, reward: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """α and β, each [...], of d and R, each [..., points]: the normal equations. NaN where there is no one solution."""
    bent = -d * d if form == "best-of-n" else -torch.xlogy(d, d)
    dd, db, bb = (d * d).sum(-1), (d * bent).sum(-1), (bent * bent).sum(-1)
    dr, br = (d * reward).sum(-1), (bent * reward).sum(-1)
    determinant = dd * bb - db * db
    determinant = torch.where(determinant > 1e-12 * dd * bb, determinant, torch.nan)
    return (bb * dr - db * br) / determinant, (dd * br - db * dr) / determinant


def _turn(alpha: Tensor, beta: Tensor, form: Form) -> Tensor:
    """d* where R is highest, 0 where it falls from the start on, inf where it rises for ever."""
    found = (alpha / (2 * beta)).clamp(min=0) if form == "best-of-n" else (alpha / beta - 1).exp()
    return torch.where(beta > 0, found, torch.inf)


def _curve(
    form: Form, named: list[dict[str, Any]], kl: Tensor, proxy: Tensor, gold: Tensor, seed: int
) -> dict[str, Any]:
    """Points and fits of values [prompts, points], the first point being the start."""
    counts = resample_counts(len(kl), seed) / len(kl)
    points = []
    for i, name in enumerate(named):
        point = name | {"kl": float(kl[:, i].mean())}
        for reward, values in (("proxy", proxy), ("gold", gold)):
            point |= {
                reward: float(values[:, i].mean()),
                f"{reward}_ci95": list(bootstrap_interval(values[:, i].tolist(), seed)),
            }
        points.append(point)
    return {
        "kind": form,
        "points": points,
        "proxy_fit": _fit_with_intervals(form, kl, proxy, counts),
        "gold_fit": _fit_with_intervals(form, kl, gold, counts),
    }


def _fit_with_intervals(form: Form, kl: Tensor, values: Tensor, counts: Tensor) -> dict[str, Any] | None:
    """{"alpha", "beta", "turn", "turn_ci95", "band"}, or None of fewer than three points beside the start.

    "turn" is d* where it lies within what was measured, else None; so is an end of "turn_ci95", the interval over
    prompts in which a resample that does not turn counts as beyond. "band": [[d, R, low, high], …] for a picture.
    """
    if kl.shape[1] <= LEAST:
        return None
    d, reward = kl.mean(0).sqrt(), (values - values[:, :1]).mean(0)
    alpha, beta = _solve(d, reward, form)
    if not (alpha.isfinite() and beta.isfinite()):
        return None
    drawn = (counts @ kl).sqrt()
    alphas, betas = _solve(drawn, counts @ (values - values[:, :1]), form)
    solved = alphas.isfinite() & betas.isfinite()
    if not solved.any():
        return None
    alphas, betas = alphas[solved], betas[solved]
    farthest = float(d.max())
    turns = _turn(alphas, betas, form)
    low, high = percentile_interval(torch.where(turns <= farthest, turns, torch.inf), len(kl))
    turn = float(_turn(alpha, beta, form))
    band = []
    for at in torch.linspace(0, farthest, 41, dtype=torch.float64)[1:]:
        bend = at if form == "best-of-n" else at.log()
        ends = percentile_interval(at * (alphas - betas * bend), len(kl))
        band.append([float(at), float(at * (alpha - beta * bend)), *ends])
    return {
        "alpha": float(alpha),
        "beta": float(beta),
        "turn": turn if turn <= farthest else None,
        "turn_ci95": [end if math.isfinite(end) else None for end in (low, high)],
        "band": band,
    }
