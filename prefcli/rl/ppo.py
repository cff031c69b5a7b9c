"""PPO on language models, one `step` a rollout: answer, score, estimate advantages, update (arXiv 1707.06347, alg. 1).

With --advantage rloo or grpo answers are compared with each other and no value model is held.

The details follow "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031); metric names are TRL's.
`metrics.py` says what each metric is. Policy and value model stay in eval mode while they are trained: with dropout the
first ratio of a rollout would not be 1.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from prefcli import losses
from prefcli.config.ppo import PPOConfig
from prefcli.errors import AlarmError, UsageError
from prefcli.models.dropout import train_without_dropout
from prefcli.models.generation import InProcess, NotFiniteError, Sampler
from prefcli.models.logps import token_logps, token_values
from prefcli.models.sharding import in_step, is_sharded, parts_of_state, spent
from prefcli.rl import kl, metrics
from prefcli.rl.advantages import gae, group_normalised, leave_one_out, token_rewards, whiten
from prefcli.rl.optimizer import clip_each, make_optimizer, make_scheduler, trained_parameters
from prefcli.rl.roles import Prompt, Roles
from prefcli.rl.rollout import Rollout, collect, micro_batches

LOWER_LR = "lower --lr, or check the data and the reward for extreme values"


class PPO:
    """Trains `roles.policy` and `roles.value` in place.

    `roles` holds the plain models; this class has the accelerator prepare the trained two. The frozen ones must be on
    the accelerator's device already. `total_rollouts` sets the length of the learning-rate schedule, which moves with
    every optimizer step. `tokens_per_row` bounds a pass over models that are packed. The accelerator's own gradient
    accumulation must be 1: splitting is done here.
    """

    def __init__(
        self,
        roles: Roles,
        config: PPOConfig,
        *,
        tokenizer: Any,
        eos_ids: Iterable[int],
        total_rollouts: int,
        lr: float,
        accelerator: Accelerator,
        tokens_per_row: int | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        config = config.resolved()
        roles = roles if config.advantage == "gae" else replace(roles, value=None)
        self.roles, self.config, self.tokenizer, self.accelerator = roles, config, tokenizer, accelerator
        self.tokens_per_row, self.answers, self.kl_coef = tokens_per_row, config.num_generations or 1, config.kl_coef
        self.sampler = sampler or InProcess(roles.policy)
        self.eos_ids = frozenset(eos_ids)
        self.pad_id = next((i for i in (tokenizer.pad_token_id, *sorted(self.eos_ids)) if i is not None), 0)
        trained = [roles.policy, roles.value] if roles.value is not None else [roles.policy]
        self.parameters = trained_parameters(trained)
        apart = getattr(roles.value, "own_parameters", None)  # on the policy's base its adapter is the policy's too
        others = {id(parameter) for parameter in apart()} if apart is not None else set()
        own = [parameter for parameter in trained_parameters(trained[:1]) if id(parameter) not in others]
        held = {id(parameter) for parameter in own}
        rest = [parameter for parameter in self.parameters if id(parameter) not in held]
        self.clipped = {"policy": own, "value": rest} if rest else {"policy": own}
        # The rollout uses the plain models of `roles`, the update the wrapped ones, whose backward synchronises.
        *wrapped, self.optimizer = accelerator.prepare(*trained, make_optimizer(self.parameters, lr, config))
        self.policy, self.value = wrapped[0], wrapped[1] if len(wrapped) > 1 else None
        for model in wrapped:
            train_without_dropout(model)
        self.scheduler = make_scheduler(
            self.optimizer.optimizer, total_rollouts * config.ppo_epochs * config.minibatches, config
        )
        # Draws tokens and shuffles: one stream for all processes, so that their number does not change what is drawn.
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rollouts = 0
        self.episodes = 0
        self.last_rollout: Rollout | None = None  # for samples and watchers
        # Called before anything of a step is taken in: weights, schedule, loss scale.
        self.before_update: Callable[[], None] = lambda: None

    def step(self, prompts: list[Prompt], progress: Callable[[int], None] | None = None) -> dict[str, float]:
        """One rollout on this process's share of the prompts, and the updates that it pays for; returns metrics.

        Each prompt is answered `num_generations` times.
        Raises AlarmError at the first loss, score or gradient that is not finite, before the weights take it in.
        """
        config = self.config
        if len(prompts) < config.minibatches:
            raise UsageError(
                f"{len(prompts)} prompts on each process cannot be split into {config.minibatches} minibatches",
                "lower --minibatches or raise --batch-size",
            )
        self.rollouts += 1
        draws = self._draws(len(prompts) * self.answers)
        first = self._minibatches(len(prompts))
        before, judged = spent["gathering"], not self._update_judges()
        rollout = self._collect([p for p in prompts for _ in range(self.answers)], draws, first, judged, progress)
        self.last_rollout = rollout
        found = self._of(rollout)
        started = time.perf_counter()
        advantages, returns = self.estimate(rollout)
        updates = [
            self._update(rollout, index, advantages, returns, judged or epoch > 0)
            for epoch in range(config.ppo_epochs)
            for index in (first if epoch == 0 else self._minibatches(len(prompts)))
        ]
        found = found if judged else self._of(rollout)
        if config.kl_target is not None:
            self.kl_coef = kl.adapted(self.kl_coef, found["objective/kl"], config.kl_target)
        self.episodes += int(found.pop("answers"))
        return {
            **found,
            **metrics.of_updates(updates),
            "episode": float(self.episodes),
            "time/generate": rollout.seconds["generate"],
            **({"time/gather": spent["gathering"] - before} if is_sharded(self.policy) else {}),
            "time/score": rollout.seconds["score"],
            "time/train": time.perf_counter() - started,
        }

    def _update_judges(self) -> bool:
        """Whether the first update tells the policy's log-probabilities, which need no pass of their own then: nothing
        before it asks for them, and no other update comes before."""
        config = self.config
        unasked = config.kl_in == "loss" or self.kl_coef == 0
        alone = config.minibatches == 1 and self.rollouts > config.value_warmup
        return unasked and alone and isinstance(self.sampler, InProcess)

    def _of(self, rollout: Rollout) -> dict[str, float]:
        found = metrics.of_rollout(rollout, self.kl_coef, self._total) | metrics.of_sampling(
            rollout, self._total, lambda values: self.accelerator.gather(values).max()
        )
        self._check(found, "the rollout is not finite", "look at what the reward source returns, or lower --lr")
        return found

    def _collect(
        self,
        prompts: list[Prompt],
        draws: Tensor,
        first: list[Tensor],
        judged: bool,
        progress: Callable[[int], None] | None,
    ) -> Rollout:
        """`first` are the minibatches of the first epoch: the answers are judged in their passes. In others they would
        be rounded otherwise, which 16 bits show, and the first ratio would not be 1."""
        config = self.config
        try:
            with self.accelerator.autocast():  # as the update computes, or the first ratio would not be 1
                self.sampler.update()
                return collect(
                    self.roles,
                    prompts,
                    config,
                    tokenizer=self.tokenizer,
                    eos_ids=self.eos_ids,
                    pad_id=self.pad_id,
                    draws=draws,
                    minibatches=first,
                    tokens_per_row=self.tokens_per_row,
                    device=self.accelerator.device,
                    progress=progress,
                    sampler=self.sampler,
                    judge_policy=judged,
                )
        except NotFiniteError as error:
            raise AlarmError(f"the policy's logits are not finite at rollout {self.rollouts}", LOWER_LR) from error

    def _draws(self, answers: int) -> Tensor:
        """[answers, max_new_tokens] of this process, out of those of all."""
        everyone = (self.accelerator.num_processes * answers, self.config.max_new_tokens)
        return torch.rand(everyone, generator=self.generator)[self.accelerator.process_index * answers :][:answers]

    def estimate(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Advantages and the values' targets, both [B, C]; the latter are 0 without a value model."""
        config, mask = self.config, rollout.mask
        penalty = kl.k1(rollout.logps, rollout.reference_logps)
        coefficient = self.kl_coef if config.kl_in == "reward" else 0.0
        if config.advantage != "gae":
            totals = rollout.scores - coefficient * (penalty * mask).sum(1)
            compare = leave_one_out if config.advantage == "rloo" else group_normalised
            return compare(totals, self.answers)[:, None] * mask, torch.zeros_like(rollout.values)
        rewards = token_rewards(rollout.scores, penalty, mask, coefficient)
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False, total=self._total)
        advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
        return whiten(advantages, mask, total=self._total), returns

    def _update(
        self, rollout: Rollout, index: Tensor, advantages: Tensor, returns: Tensor, judged: bool
    ) -> dict[str, float]:
        """One optimizer step on the answers at `index` [b], the loss averaged over all processes' tokens in it.

        Where the rollout is not `judged` yet, its passes are what tells the policy's log-probabilities.
        """
        accelerator = self.accelerator
        tokens = self._total(rollout.mask[index].sum().float())
        sums = torch.zeros(len(metrics.TOKEN_SUMS), device=accelerator.device)
        parts = list(micro_batches(index, rollout.rows, self.config.grad_accum, self.tokens_per_row, self.answers))
        # Gradients are averaged over processes; the loss is a sum over them.
        scale = accelerator.num_processes / tokens
        for part, counts in in_step(self.policy, parts, index[rollout.rows.lengths[index].argmin()][None]):
            with ExitStack() as stack:
                if part is not parts[-1]:  # gradients meet the other processes' once
                    for model in (self.policy, self.value):
                        if model is not None:
                            stack.enter_context(accelerator.no_sync(model))
                factor, known = (scale, judged) if counts else (scale * 0, True)
                added = self._add_gradients(rollout, part, advantages, returns, factor, known)
                sums += added if counts else 0
        means = metrics.of_minibatch(self._total(sums), tokens)
        if not self.config.router_loss:
            del means["router_loss"]
        self._check(means, "the loss is not finite", LOWER_LR)
        accelerator.unscale_gradients()
        norms = clip_each(self.clipped, self.config.max_grad_norm)
        means |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
        means["grad_norm"] = math.hypot(*norms.values())
        if accelerator.scaler is None:  # a loss scaler leaves such a step out by itself
            self._check(means, "the gradient is not finite", LOWER_LR)
        means["lr"] = self.optimizer.param_groups[0]["lr"]  # after `soften` the schedule does not know it yet
        self.before_update()
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        if self.rollouts <= self.config.value_warmup:  # the policy was not run
            means = {name: value for name, value in means.items() if name not in metrics.OF_POLICY}
        return means

    def _add_gradients(
        self, rollout: Rollout, index: Tensor, advantages: Tensor, returns: Tensor, scale: Tensor, judged: bool = True
    ) -> Tensor:
        """Gradients of the loss summed over the tokens of the answers at `index` and times `scale`.

            L = L_policy − c_e·entropy + c_v·L_value        (arXiv 1707.06347, eq. 9, with the signs turned)

        and with --router-loss that of the policy's routers, over the prompts' tokens too.

        The value model's share has a backward pass of its own: only one model's activations are there at a time.
        Returns the sums that `metrics.TOKEN_SUMS` names.
        """
        config, rows = self.config, rollout.rows.select(index)
        mask = rows.mask
        cut = (index, slice(mask.shape[1]))
        logps = old_logps = rollout.logps[cut]
        policy = entropy = value = balance = torch.zeros((), device=mask.device)
        policy_clipped = value_clipped = torch.zeros_like(mask)
        if self.rollouts > config.value_warmup:  # else no gradient: the optimizer leaves alone what has none
            with self.accelerator.autocast():  # the wrapped model's own does not reach the head, which is run apart
                new = token_logps(
                    self.policy, rows, config.temperature, entropy_grad=config.entropy_coef > 0,
                    balance=config.router_loss > 0,
                )  # fmt: skip
            logps, entropy = new.logps, (new.entropy * mask).sum()
            if not judged:
                rollout.logps[cut] = old_logps = logps.detach()
            terms, policy_clipped = losses.policy_loss(logps, old_logps, advantages[cut], config.clip_range)
            terms = terms if rollout.weights is None else terms * rollout.weights[cut]
            policy = (terms * mask).sum()
            loss = policy - config.entropy_coef * entropy
            if config.kl_in == "loss":
                loss = loss + self.kl_coef * (kl.k3(logps, rollout.reference_logps[cut]) * mask).sum()
            if new.balance is not None and config.router_loss:
                balance = new.balance * mask.sum()
                loss = loss + config.router_loss * balance
            self.accelerator.backward(loss * scale)
        if self.value is not None:
            with self.accelerator.autocast():
                values = token_values(self.value, rows)
            terms, value_clipped = losses.value_loss(values, rollout.values[cut], returns[cut], config.clip_range_value)
            value = (terms * mask).sum()
            self.accelerator.backward(config.vf_coef * value * scale)
        return metrics.token_sums(
            policy, value, entropy, balance, policy_clipped, value_clipped, (logps - old_logps).detach(), mask
        )

    def soften(self, times: int, seed: int) -> None:
        """Half the learning rate and twice the KL coefficient, `times` over, and other draws from here on."""
        self.kl_coef *= 2**times
        for group in self.optimizer.param_groups:
            group["initial_lr"] *= 0.5**times
            group["lr"] *= 0.5**times
        self.scheduler.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
        self.generator.manual_seed(seed)

    def _minibatches(self, prompts: int) -> list[Tensor]:
        """The answers' places in an epoch's minibatches, the prompts in another order, a prompt's answers together."""
        everyone = torch.randperm(self.accelerator.num_processes * prompts, generator=self.generator)
        order = everyone[everyone // prompts == self.accelerator.process_index] % prompts
        order = order.to(self.accelerator.device)
        places = order[:, None] * self.answers + torch.arange(self.answers, device=order.device)
        return [part.flatten() for part in places.tensor_split(self.config.minibatches)]

    def _total(self, sums: Tensor) -> Tensor:
        """Added up over all processes."""
        return self.accelerator.reduce(sums, reduction="sum")

    def _check(self, values: dict[str, float], message: str, hint: str) -> None:
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        if broken:
            raise AlarmError(f"{message} at rollout {self.rollouts}: {', '.join(broken)}", hint)

    def state_dict(self) -> dict[str, Any]:
        """All that changes but the models' weights."""
        scaler = self.accelerator.scaler  # of float16
        return {
            "optim": self.config.optim,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "scheduler": self.scheduler.state_dict(),
            "generator": self.generator.get_state(),
            "rollouts": self.rollouts,
            "episodes": self.episodes,
            "kl_coef": self.kl_coef,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.zero_grad()  # an update that an alarm broke off leaves its gradients
        self.load_optimizer(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.generator.set_state(state["generator"])
        self.rollouts, self.episodes, self.kl_coef = state["rollouts"], state["episodes"], state["kl_coef"]

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Of whole weights, however they are split here."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizer.load_state_dict(parts_of_state(state, parameters))
