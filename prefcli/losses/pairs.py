"""Losses on pairs: DPO and its family.

All tensors are [n], one entry a pair. With r(y) = log π(y|x) − log π_ref(y|x), summed over the answer's tokens or, with
--length-normalise, averaged over them (and without π_ref where the loss is reference-free):

    z = (β·(r(chosen) − r(rejected)) − margin) / share

`margin` is 0 and `share` 1, but for SimPO's γ and for MODPO (arXiv 2310.03708, equation 9): there the margin is what
other rewards already say of the pair, weighted, and the share is the weight that the pair's own label has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Terms(NamedTuple):
    """What a loss may look at."""

    chosen: Tensor  # [n] r(chosen)
    rejected: Tensor  # [n] r(rejected)
    beta: float
    smoothing: float = 0.0  # the share of labels that are taken to be the wrong way round
    margin: Tensor | float = 0.0  # [n]
    share: float = 1.0

    @property
    def z(self) -> Tensor:
        return (self.beta * (self.chosen - self.rejected) - self.margin) / self.share


def sigmoid(terms: Terms) -> Tensor:
    """−(1−ε)·log σ(z) − ε·log σ(−z): DPO (arXiv 2305.18290, equation 7); with ε > 0 conservative DPO (its author's
    note of 2023: labels are wrong with probability ε, so the margin that is aimed at is finite)."""
    return -(1 - terms.smoothing) * logsigmoid(terms.z) - terms.smoothing * logsigmoid(-terms.z)


def robust(terms: Terms) -> Tensor:
    """(−(1−ε)·log σ(z) + ε·log σ(−z)) / (1−2ε): in expectation over labels flipped with probability ε it is DPO's loss
    on the clean ones (arXiv 2403.00409, equation 12)."""
    clean, flipped = -logsigmoid(terms.z), -logsigmoid(-terms.z)
    return ((1 - terms.smoothing) * clean - terms.smoothing * flipped) / (1 - 2 * terms.smoothing)


def hinge(terms: Terms) -> Tensor:
    """max(0, 1 − z): SLiC's margin (arXiv 2305.10425) on DPO's log-ratios (RSO, arXiv 2309.06657, equation 10)."""
    return torch.relu(1 - terms.z)


def ipo(terms: Terms) -> Tensor:
    """(r(chosen) − r(rejected) − 1/(2β))²: IPO (arXiv 2310.12036, equation 17, where β is τ)."""
    return (terms.chosen - terms.rejected - 1 / (2 * terms.beta)) ** 2


def apo_zero(terms: Terms) -> Tensor:
    """1 − σ(β·r(chosen)) + σ(β·r(rejected)): chosen up, rejected down (APO, arXiv 2408.06266, equation 7)."""
    return 1 - torch.sigmoid(terms.beta * terms.chosen) + torch.sigmoid(terms.beta * terms.rejected)


def apo_down(terms: Terms) -> Tensor:
    """σ(β·r(chosen)) + 1 − σ(β·(r(chosen) − r(rejected))): both down, rejected further (the same, equation 8)."""
    gap = terms.beta * (terms.chosen - terms.rejected)
    return torch.sigmoid(terms.beta * terms.chosen) + 1 - torch.sigmoid(gap)


PAIR_LOSSES: dict[str, Callable[[Terms], Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
    "robust": robust,
    "simpo": sigmoid,  # reference-free and length-normalised, with γ as the margin (arXiv 2405.14734, equation 6)
    "apo-zero": apo_zero,
    "apo-down": apo_down,
}
