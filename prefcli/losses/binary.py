"""KTO: a loss on answers that are labelled desirable or not, one by one (arXiv 2402.01306, equation 8)."""

from __future__ import annotations

import torch
from torch import Tensor


def kto(
    log_ratios: Tensor, labels: Tensor, kl: Tensor, *, beta: float, desirable: float = 1.0, undesirable: float = 1.0
) -> Tensor:
    """[n] losses: λ_D·(1 − σ(β·(r − z₀))) of desirable answers, λ_U·(1 − σ(β·(z₀ − r))) of others.

    `log_ratios` [n] are r = log π(y|x) − log π_ref(y|x), `labels` [n] True on desirable ones, `kl` is z₀ ≥ 0 (see
    `reference_point`), through which no gradient goes.
    """
    sign = torch.where(labels, 1.0, -1.0)
    weights = torch.where(labels, desirable, undesirable)
    return weights * (1 - torch.sigmoid(beta * sign * (log_ratios - kl)))


def reference_point(mismatched: Tensor) -> Tensor:
    """z₀ = max(0, mean r), `mismatched` being r of prompts with another prompt's answer, or their mean.

    A biased estimate of KL(π‖π_ref) that costs no sampling (the paper, section 4.1).
    """
    return mismatched.detach().mean().clamp(min=0)


def shifted(answers: list[list[int]]) -> list[list[int]]:
    """Each prompt's mismatched answer: the one of the example before it in the step, as in TRL."""
    return answers[-1:] + answers[:-1]
