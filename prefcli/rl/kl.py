"""Estimators of KL(π ‖ π_ref) from sampled tokens (J. Schulman, "Approximating KL divergence", 2020).

With d = log π(a) − log π_ref(a) for an action a drawn from π:

    k1 = d                    unbiased, may be negative; the reward's penalty, since E[d] summed over an answer's tokens
                              is the KL of the answers' distributions
    k3 = exp(−d) − 1 + d      unbiased, never negative, less variance; for watching, and for a penalty in the loss
                              (GRPO), where the gradient of k1 is zero on average

Both are unbiased in value. As a penalty what counts is the gradient of E_π[k] = Σ_a π·k, which has two parts,
E[k·∇log π] + E[∇k]. A reward gives the first alone, a loss the second alone:

    k1 in the reward    E[d·∇log π]; the part left out, E[∇d] = E[∇log π], is 0: this is the KL's gradient
    k1 in the loss      0: refused
    k3 in the loss      E[(1 − π_ref/π)·∇log π] = ∇KL(π_ref ‖ π) in each state that is visited: the other direction, and
                        blind to the KL to come. With advantages A it is at rest where π = π_ref·β / (β − A)
    k3 in the reward    the part left out is not 0. What becomes rarer than in the reference is punished, and gets
                        rarer: the policy is driven away from the reference. Refused
"""

from __future__ import annotations

from torch import Tensor


def k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """log π − log π_ref of each token, nats; any one shape."""
    return logps - reference_logps


def k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """(r − 1) − log r with r = π_ref / π, of each token, nats; any one shape."""
    log_ratio = reference_logps - logps
    return log_ratio.expm1() - log_ratio


def adapted(coefficient: float, kl: float, target: float) -> float:
    """β_{t+1} = β_t·(1 + 0.1·clip(KL / target − 1, ±0.2)), KL in nats (Ziegler et al., arXiv 1909.08593, 2.2)."""
    return coefficient * (1 + 0.1 * max(-0.2, min(0.2, kl / target - 1)))
