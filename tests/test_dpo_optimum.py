"""DPO's family on a space of answers small enough to enumerate ends where theory says.

    sigmoid   π ∝ π_ref·exp(r/β) for labels that Bradley–Terry gives under r (arXiv 2305.18290, theorem 1)
    ipo       π ∝ π_ref·exp(p(y ≻ μ)/β) for pairs drawn independently from μ and labelled by p (arXiv 2310.12036)
    MODPO     π ∝ π_ref·exp((w₀·r₀ + w₁·r₁)/β) for labels under r₀ and margins by r₁ (arXiv 2310.03708)
    certain   of labels that are never wrong DPO's end is the best answer alone, whatever β is; IPO's is as above,
              with p of 0 and 1, and moves with β (arXiv 2310.12036, section 4.2 and 5)

Every ordered pair is there once, weighted by how often it occurs, so the loss is the expectation itself. The targets
are worked out from the reference's logits, one sequence at a time, by nothing that the training uses. Answers are EOS,
or a letter and then any token: 1 + 2·3 = 7.
"""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from datasets import Dataset
from tiny_models import letters, tiny_lm
from trl import DPOConfig as TRLConfig

from prefcli.config.dpo import DPOConfig
from prefcli.stages.dpo import DPOSteps
from prefcli.stages.reference import ReferenceLogps, reference_at_work

VOCAB, EOS, PROMPT, BETA = 4, 2, [0, 3], 0.5
ANSWERS = [(EOS,)] + [(a, b) for a in range(2) for b in range(3)]
SIZES = {"vocab": VOCAB, "layers": 1, "hidden": 16}
_dice = random.Random(1)
REWARD = {answer: _dice.uniform(-1.0, 1.0) for answer in ANSWERS}
OTHER = {answer: _dice.uniform(-3.0, 3.0) for answer in ANSWERS}
MU = {answer: _dice.uniform(0.5, 1.5) for answer in ANSWERS}
SHARE = 0.6


def distribution(model):
    """Probability of each of the answers among them (the vocabulary has one token more, for padding)."""

    def next_token(ids):
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).tolist()

    found = [math.prod(next_token([*PROMPT, *a[:t]])[token] for t, token in enumerate(a)) for a in ANSWERS]
    return [p / sum(found) for p in found]


def total_variation(p, q):
    return sum(abs(a - b) for a, b in zip(p, q)) / 2


def preferred(first, second, certain=False):
    """The probability that the first is labelled the better: Bradley–Terry under REWARD, or that which is certain."""
    if certain:
        return 0.5 if first == second else float(REWARD[first] > REWARD[second])
    return 1 / (1 + math.exp(REWARD[second] - REWARD[first]))


def all_pairs(case, certain=False):
    drawn = MU if case == "ipo" else dict.fromkeys(ANSWERS, 1.0)
    total = sum(drawn.values()) ** 2 / len(ANSWERS) ** 2
    return [
        {
            "prompt_ids": PROMPT, "chosen_ids": list(a), "rejected_ids": list(b),
            "weight": drawn[a] * drawn[b] * preferred(a, b, certain) / total,
            "margin": (1 - SHARE) * (OTHER[a] - OTHER[b]) if case == "modpo" else 0.0,
        }
        for a in ANSWERS for b in ANSWERS if a != b
    ]  # fmt: skip


def exponent(case, answer, certain=False):
    """What stands over β in the target."""
    if case == "ipo":
        others = sum(MU.values())
        return sum(MU[other] / others * preferred(answer, other, certain) for other in ANSWERS)
    if case == "modpo":
        return SHARE * REWARD[answer] + (1 - SHARE) * OTHER[answer]
    return REWARD[answer]


def target_of(reference, case, beta, certain=False):
    weights = [p * math.exp(exponent(case, a, certain) / beta) for a, p in zip(ANSWERS, distribution(reference))]
    return [weight / sum(weights) for weight in weights]


def trained(policy, reference, case, beta, folder, certain=False, steps=120):
    """What training on all pairs makes of the policy: its distribution."""
    pairs = [row for row in all_pairs(case, certain) if row["weight"]]
    rows = [{**row, "row": i} for i, row in enumerate(pairs)]
    loss = "ipo" if case == "ipo" else "sigmoid"
    args = TRLConfig(
        output_dir=str(folder), per_device_train_batch_size=len(rows), max_steps=steps, learning_rate=3e-2, beta=beta,
        max_length=None, lr_scheduler_type="cosine", use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False, logging_strategy="no", precompute_ref_log_probs=True,
        remove_unused_columns=False,
    )  # fmt: skip
    logps = ReferenceLogps(len(rows), None)
    trainer = DPOSteps(
        model=policy, args=args, train_dataset=Dataset.from_list(rows), processing_class=letters(),
        tokens_per_row=10_000, config=DPOConfig(loss=loss, beta=beta).resolved(), references=[logps],
        share=SHARE if case == "modpo" else 1.0,
    )  # fmt: skip
    logps.model, logps.run = reference, lambda: reference_at_work(reference, trainer.accelerator)
    trainer.train()
    return distribution(policy)


@pytest.mark.parametrize(
    ("case", "start"),
    [("sigmoid", "reference"), ("sigmoid", "elsewhere"), ("ipo", "elsewhere"), ("modpo", "elsewhere")],
)
def test_the_family_reaches_the_exact_optimum(case, start, tmp_path):
    reference = tiny_lm(seed=0, scale=0.5, **SIZES)
    policy = copy.deepcopy(reference) if start == "reference" else tiny_lm(seed=9, **SIZES)
    beta = 0.2 if case == "ipo" else BETA
    target = target_of(reference, case, beta)
    assert total_variation(distribution(policy), target) > (0.2 if start == "elsewhere" else 0.1)
    assert total_variation(trained(policy, reference, case, beta, tmp_path), target) < 0.03


def test_certain_labels_make_dpo_forget_beta_and_ipo_does_not(tmp_path):
    reference = tiny_lm(seed=0, scale=0.5, **SIZES)
    best = ANSWERS.index(max(ANSWERS, key=REWARD.__getitem__))
    start, target = distribution(reference), target_of(reference, "ipo", 1.0, certain=True)
    ends = [trained(copy.deepcopy(reference), reference, case, beta, tmp_path, certain=True, steps=steps)
            for case, beta, steps in (("sigmoid", 0.2, 60), ("sigmoid", 1.0, 120), ("ipo", 1.0, 60))]  # fmt: skip
    assert start[best] < 0.05 and ends[0][best] > 0.97 < ends[1][best]
    assert total_variation(ends[2], target) < 0.03 and total_variation(target, start) < 0.15
    assert total_variation(target_of(reference, "ipo", 0.2, certain=True), start) > 0.5
