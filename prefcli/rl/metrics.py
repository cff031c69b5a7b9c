"""The metrics of a PPO step, under TRL's names.

A mean is over the answers or tokens of all processes.

    objective/kl                 mean over answers of Σ_t k1, nats        objective/kl_k3   the same of k3
    objective/entropy            mean over answers of Σ_t −log π(token)
    objective/kl_coef            β, which --kl-target moves
    objective/scores             mean score, clipped, after the penalties for length and for a missing EOS
    objective/scores/NAME        mean score of one reward source, before it (where there are several)
    objective/non_score_reward   mean over answers of Σ_t −β·k1
    objective/rlhf_reward        the sum of the two: what PPO maximises
    policy/approxkl_avg          mean over tokens of ½(log π − log π_old)²
    policy/clipfrac_avg          share of tokens where the clipped branch decides; val/clipfrac_avg: of values
    policy/entropy_avg           mean over tokens of the entropy of π
    loss/policy_avg, loss/value_avg
    router_loss                  with --router-loss: the balancing loss of the policy's routers, weighted by tokens
    val/ratio, val/ratio_var     mean and variance, over the updates, of the mean ratio π / π_old
    val/ratio_first              mean over tokens of |ratio − 1| in the first minibatch: 0 but for rounding
    val/num_eos_tokens           answers that ended by themselves
    completions/mean_length      tokens, EOS included
    sampling/kl                  with --generate: mean over tokens of k3 of KL(server ‖ policy), before the update
    sampling/ratio_mean, …_max   π_old / π of the server, before it is truncated: 1 but for rounding
    grad_norm                    before clipping, mean over the updates;  lr: that of the last update
    grad_norm/policy, …/value    of the two models, each clipped by its own

In the rollouts of --value-warmup there is none of OF_POLICY: the policy is not run.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, pvariance

import torch
from torch import Tensor

from prefcli.rl import kl
from prefcli.rl.rollout import Rollout

# Summed over a minibatch's tokens, then divided by their number.
TOKEN_SUMS = (
    "loss/policy_avg",
    "loss/value_avg",
    "policy/entropy_avg",
    "router_loss",
    "policy/clipfrac_avg",
    "val/clipfrac_avg",
    "policy/approxkl_avg",
    "val/ratio",
    "val/ratio_first",
)

# What the updates tell of the policy.
OF_POLICY = (
    "loss/policy_avg",
    "policy/entropy_avg",
    "router_loss",
    "policy/clipfrac_avg",
    "policy/approxkl_avg",
    "val/ratio",
    "val/ratio_first",
    "grad_norm/policy",
)


def of_rollout(rollout: Rollout, kl_coef: float, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """The objective/ metrics and "answers", their number. `total` adds a tensor up over all processes."""
    per_token = {
        "objective/kl": kl.k1(rollout.logps, rollout.reference_logps),
        "objective/kl_k3": kl.k3(rollout.logps, rollout.reference_logps),
        "objective/entropy": -rollout.logps,
        "completions/mean_length": rollout.mask.float(),
    }
    sums = {name: (terms * rollout.mask).sum() for name, terms in per_token.items()}
    sums["objective/scores"] = rollout.scores.sum()
    if len(rollout.raw_scores) > 1:
        sums |= {f"objective/scores/{name}": scores.sum() for name, scores in rollout.raw_scores.items()}
    sums["val/num_eos_tokens"] = rollout.ended.sum().float()
    sums["answers"] = torch.tensor(float(len(rollout.prompts)), device=rollout.mask.device)
    added = dict(zip(sums, total(torch.stack(list(sums.values()))).tolist()))
    whole = {name: added.pop(name) for name in ("val/num_eos_tokens", "answers")}
    found = {name: value / whole["answers"] for name, value in added.items()}
    found["objective/kl_coef"] = kl_coef
    found["objective/non_score_reward"] = -kl_coef * found["objective/kl"]
    found["objective/rlhf_reward"] = found["objective/scores"] + found["objective/non_score_reward"]
    return {**found, **whole}


def of_sampling(
    rollout: Rollout, total: Callable[[Tensor], Tensor], largest: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """The sampling/ metrics; none where the policy drew its answers itself. `total` adds a tensor up over all
    processes, `largest` is the largest number of all of them."""
    if rollout.sampler_logps is None:
        return {}
    ratio = (rollout.logps - rollout.sampler_logps).exp() * rollout.mask
    parts = [kl.k3(rollout.sampler_logps, rollout.logps) * rollout.mask, ratio, rollout.mask.float()]
    divergence, ratios, tokens = total(torch.stack([part.sum() for part in parts])).tolist()
    most = float(largest(ratio.max()[None]))
    return {
        "sampling/kl": divergence / tokens,
        "sampling/ratio_mean": ratios / tokens,
        "sampling/ratio_max": most,
    }


def token_sums(
    policy_sum: Tensor,
    value_sum: Tensor,
    entropy_sum: Tensor,
    balance_sum: Tensor,
    policy_clipped: Tensor,
    value_clipped: Tensor,
    log_ratio: Tensor,
    mask: Tensor,
) -> Tensor:
    """What TOKEN_SUMS names, of the answers of one forward pass; the last four arguments are [B, C]."""
    ratio = log_ratio.exp()
    per_token = (policy_clipped, value_clipped, 0.5 * log_ratio**2, ratio, (ratio - 1).abs())
    return torch.stack(
        [policy_sum, value_sum, entropy_sum, balance_sum, *((terms * mask).sum().float() for terms in per_token)]
    ).detach()


def of_minibatch(sums: Tensor, tokens: Tensor) -> dict[str, float]:
    """Means over the tokens of one update."""
    return dict(zip(TOKEN_SUMS, (sums / tokens).tolist()))


def of_updates(updates: list[dict[str, float]]) -> dict[str, float]:
    """One rollout's metrics from those of its updates."""
    found = {name: fmean(update[name] for update in updates) for name in updates[0]}
    if "val/ratio" in found:
        found["val/ratio_var"] = pvariance([update["val/ratio"] for update in updates])
        found["val/ratio_first"] = updates[0]["val/ratio_first"]
    found["lr"] = updates[-1]["lr"]
    return found
