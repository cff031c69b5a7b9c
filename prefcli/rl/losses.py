"""The losses of PPO (arXiv 1707.06347), token by token: tensors in, tensors out.

Nothing is averaged here. The loop masks, adds up and divides by the minibatch's tokens, so that splitting a minibatch
does not change its gradient. "Clipped" marks the tokens where the clipped branch is the larger loss.
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """−L^CLIP (eq. 7) of each token, to minimise: max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)), ρ = π / π_old.

    All of one shape; returns (loss, clipped). Gradients flow through `logps` alone.
    """
    ratio = (logps - old_logps).exp()
    free = -advantages * ratio
    held = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(free, held), held > free


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
