"""From scores to advantages: per-token rewards, generalised advantage estimation, whitening.

Shapes: B answers, C tokens of the longest one; mask [B, C] is True on an answer's tokens, its EOS included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """r_t = −β·KL_t, plus the answer's score at its last token (InstructGPT, arXiv 2203.02155, eq. 2, token by token).

    scores [B]; kl [B, C], k1 of each token; returns [B, C], 0 in padding.
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 11–16). All [B, C]; returns (advantages, returns).

        δ_t = r_t + γ·V(s_{t+1}) − V(s_t)
        A_t = δ_t + γ·λ·A_{t+1}
        R_t = A_t + V(s_t)

    V is 0 after the last token, for answers cut off at the length limit too: the limit is part of the task, and the
    score is paid there.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * lam * next_advantage) * mask[:, t]
        advantages[:, t] = next_advantage
        next_value = values[:, t]
    return advantages, advantages + values


def leave_one_out(scores: Tensor, answers: int) -> Tensor:
    """A_i = R_i − mean of the other answers' R (RLOO: Ahmadian et al., arXiv 2402.14740, eq. 8).

    scores [B], the `answers` to each prompt next to each other; returns [B].
    """
    groups = scores.view(-1, answers)
    return ((groups - groups.mean(1, keepdim=True)) * (answers / (answers - 1))).flatten()


def group_normalised(scores: Tensor, answers: int) -> Tensor:
    """A_i = (R_i − mean) / standard deviation over a prompt's answers (GRPO: arXiv 2402.03300, section 4.1.2).

    scores [B], the `answers` to each prompt next to each other; returns [B], 0 where all of them score alike.
    """
    groups = scores.view(-1, answers)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


def whiten(
    x: Tensor, mask: Tensor, *, shift_mean: bool = True, total: Callable[[Tensor], Tensor] = lambda sums: sums
) -> Tensor:
    """x [B, C] scaled to unit variance over the masked tokens, and shifted to mean 0 unless not `shift_mean`.

    Without a shift it is a scale alone, x / σ. N+ and TRL add the mean back after (x − m)/σ, which gives every token
    the constant m·(1 − 1/σ): a bonus or a penalty for length. `total` adds a tensor up over all processes. The variance
    is the unbiased one. 0 in padding.
    """
    count = total(mask.sum().to(x.dtype))
    mean = total((x * mask).sum()) / count
    variance = total((((x - mean) * mask) ** 2).sum()) / (count - 1).clamp(min=1)
    return (x - mean if shift_mean else x) * (variance + 1e-8).rsqrt() * mask
