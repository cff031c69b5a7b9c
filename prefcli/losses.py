"""All objectives on one page: tensors in, one loss for each token, answer or pair out. Nothing is averaged here.

    sft        next_token      −log π of each token
    train-rm   bradley_terry   of each pair's scores
    dpo        PAIR_LOSSES     DPO and its family, of each pair's log-ratios
    orpo       odds_ratio      of each pair's mean log-probabilities
    kto        kto             of each labelled answer's log-ratio
    ppo        policy_loss, value_loss, truncated_weights   of each token

Who calls them masks, adds up and divides by the units of a whole step, so that splitting a step does not change its
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def next_token(logps: Tensor) -> Tensor:
    """−log π of each token: supervised fine-tuning."""
    return -logps


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, center: float = 0.0) -> Tensor:
    """[n] −log σ(c − r − m) + k·(c + r)² of the scores [n] of the chosen and the rejected answers.

    Bradley–Terry (arXiv 2009.01325, section 3.4) with the pair's margin m (Llama 2, arXiv 2307.09288, equation 2) and
    `center` k, which draws the scores to mean 0 (arXiv 2312.09244, equation 2), both as in TRL.
    """
    return -logsigmoid(chosen - rejected - margin) + center * (chosen + rejected).square()


class Terms(NamedTuple):
    """The inputs of a loss on pairs; all tensors are [n], one entry a pair.

    With r(y) = log π(y|x) − log π_ref(y|x), summed over the answer's tokens or, with --length-normalise, averaged over
    them (and without π_ref where the loss is reference-free):

        z = (β·(r(chosen) − r(rejected)) − margin) / share

    `margin` is 0 and `share` 1, but for MODPO (arXiv 2310.03708, equation 9): there the margin is what other rewards
    already say of the pair, weighted, and the share is the weight that the pair's own label has.
    """

    chosen: Tensor  # [n] r(chosen)
    rejected: Tensor  # [n] r(rejected)
    beta: float
    margin: Tensor | float = 0.0  # [n]
    share: float = 1.0

    @property
    def z(self) -> Tensor:
        return (self.beta * (self.chosen - self.rejected) - self.margin) / self.share


def sigmoid(terms: Terms, label_smoothing: float = 0.0) -> Tensor:
    """−(1−ε)·log σ(z) − ε·log σ(−z): DPO (arXiv 2305.18290, equation 7); with ε > 0 conservative DPO (its author's
    note of 2023: labels are wrong with probability ε, so the margin that is aimed at is finite)."""
    return -(1 - label_smoothing) * logsigmoid(terms.z) - label_smoothing * logsigmoid(-terms.z)


def robust(terms: Terms, label_smoothing: float = 0.0) -> Tensor:
    """(−(1−ε)·log σ(z) + ε·log σ(−z)) / (1−2ε): in expectation over labels flipped with probability ε it is DPO's loss
    on the clean ones (arXiv 2403.00409, equation 12)."""
    clean, flipped = -logsigmoid(terms.z), -logsigmoid(-terms.z)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def hinge(terms: Terms) -> Tensor:
    """max(0, 1 − z): SLiC's margin (arXiv 2305.10425) on DPO's log-ratios (RSO, arXiv 2309.06657, equation 10)."""
    return torch.relu(1 - terms.z)


def ipo(terms: Terms) -> Tensor:
    """(r(chosen) − r(rejected) − 1/(2β))²: IPO (arXiv 2310.12036, equation 17, where β is τ)."""
    return (terms.chosen - terms.rejected - 1 / (2 * terms.beta)) ** 2


def simpo(terms: Terms, simpo_gamma: float) -> Tensor:
    """−log σ(z − γ), reference-free and length-normalised (arXiv 2405.14734, equation 6)."""
    return -logsigmoid(terms.z - simpo_gamma)


def apo_zero(terms: Terms) -> Tensor:
    """1 − σ(β·r(chosen)) + σ(β·r(rejected)): chosen up, rejected down (APO, arXiv 2408.06266, equation 7)."""
    return 1 - torch.sigmoid(terms.beta * terms.chosen) + torch.sigmoid(terms.beta * terms.rejected)


def apo_down(terms: Terms) -> Tensor:
    """σ(β·r(chosen)) + 1 − σ(β·(r(chosen) − r(rejected))): both down, rejected further (the same, equation 8)."""
    gap = terms.beta * (terms.chosen - terms.rejected)
    return torch.sigmoid(terms.beta * terms.chosen) + 1 - torch.sigmoid(gap)


# By --loss; the parameters of a loss are options of the same names (config/dpo.py has what each takes).
PAIR_LOSSES: dict[str, Callable[..., Tensor]] = {
    "sigmoid": sigmoid,
    "ipo": ipo,
    "hinge": hinge,
    "robust": robust,
    "simpo": simpo,
    "apo-zero": apo_zero,
    "apo-down": apo_down,
}


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """[n] −log σ(log odds(chosen) − log odds(rejected)): ORPO's second term (arXiv 2403.07691, equations 4 and 7).

    `chosen`, `rejected` [n] are log p, the mean log-probability a token of each answer, and odds = p / (1 − p). An
    answer of which the model is certain has no odds: log p is held below 0 by the least that float32 tells apart.
    """
    least = torch.finfo(torch.float32).eps
    odds = [logp - torch.log(-torch.expm1(logp.clamp(max=-least))) for logp in (chosen, rejected)]
    return -logsigmoid(odds[0] - odds[1])


def kto(
    log_ratios: Tensor, labels: Tensor, kl: Tensor, *, beta: float, desirable: float = 1.0, undesirable: float = 1.0
) -> Tensor:
    """[n] λ_D·(1 − σ(β·(r − z₀))) of desirable answers, λ_U·(1 − σ(β·(z₀ − r))) of others (arXiv 2402.01306, eq. 8).

    `log_ratios` [n] are r = log π(y|x) − log π_ref(y|x), `labels` [n] True on desirable ones, `kl` is z₀ ≥ 0 (see
    `reference_point`), through which no gradient goes.
    """
    sign = torch.where(labels, 1.0, -1.0)
    weights = torch.where(labels, desirable, undesirable)
    return weights * (1 - torch.sigmoid(beta * sign * (log_ratios - kl)))


def reference_point(mismatched: Tensor) -> Tensor:
    """z₀ = max(0, mean r), `mismatched` being r of prompts with another prompt's answer, or their mean.

    A biased estimate of KL(π‖π_ref) that costs no sampling (KTO's paper, section 4.1).
    """
    return mismatched.detach().mean().clamp(min=0)


def policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """−L^CLIP of each token (PPO, arXiv 1707.06347, equation 7): max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)), ρ = π / π_old.

    All of one shape; returns (loss, clipped), where "clipped" marks the tokens whose clipped branch is the larger loss.
    Gradients flow through `logps` alone.
    """
    ratio = (logps - old_logps).exp()
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(free, held), held > free


def truncated_weights(logps: Tensor, sampler_logps: Tensor, mask: Tensor, level: str, most: float) -> Tensor:
    """[B, C] min(π_old / π_sampler, C) of each token, or (level "sequence") of the answer's product on all its tokens.

    What the policy's term of a token is multiplied with where another program drew it than computes π: truncated
    importance sampling (Ionides 2008, doi 10.1198/106186008X320456), token by token as in "Your Efficient RL Framework
    Secretly Brings You Off-Policy RL Training" (Yao et al. 2025). Untruncated weights of whole answers are unbiased;
    those of tokens leave out what the answer's other tokens were drawn with, and vary far less.
    `logps`, `sampler_logps` and `mask` are [B, C]; 1 in padding.
    """
    difference = (logps - sampler_logps) * mask
    if level == "sequence":
        difference = difference.sum(1, keepdim=True).expand_as(difference) * mask
    return difference.exp().clamp(max=most)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """½·max((V − R)², (V_clip − R)²) of each token, V_clip = V_old + clip(V − V_old, −ε, ε); ε = 0 does not clip.

    "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031). All of one shape; returns (loss, clipped).
    """
    free = (values - returns) ** 2
    if clip_range == 0:
        return 0.5 * free, torch.zeros_like(free, dtype=torch.bool)
    # Clamped between bounds, not old + clamp(difference), which differs from V by rounding where nothing is clipped.
    held = (values.clamp(old_values - clip_range, old_values + clip_range) - returns) ** 2
    return 0.5 * torch.maximum(free, held), held > free
