"""DPO on a space of answers small enough to enumerate ends where theory says: π ∝ π_ref·exp(r/β).

With every pair of answers labelled as often each way as Bradley–Terry says under r, that is the loss's only minimum
(Rafailov et al., arXiv 2305.18290, theorem 1). The target is worked out from the reference's logits, one sequence at
a time, by nothing that the training uses. Answers are EOS, or a letter and then any token: 1 + 2·3 = 7.
"""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from datasets import Dataset
from tiny_models import tiny_lm
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig

from prefcli.stages.dpo import PairTrainer

VOCAB, EOS, PROMPT, BETA = 4, 2, [0, 3], 0.5
ANSWERS = [(EOS,)] + [(a, b) for a in range(2) for b in range(3)]
SIZES = {"vocab": VOCAB, "layers": 1, "hidden": 16}
COPIES = 12  # of each pair, divided over its two orders: the probabilities are kept to 1/24
_dice = random.Random(1)
REWARD = {answer: _dice.uniform(-1.0, 1.0) for answer in ANSWERS}


def distribution(model):
    """Probability of each of the answers among them (the vocabulary has one token more, for padding)."""

    def next_token(ids):
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1).tolist()

    found = [math.prod(next_token([*PROMPT, *a[:t]])[token] for t, token in enumerate(a)) for a in ANSWERS]
    return [p / sum(found) for p in found]


def total_variation(p, q):
    return sum(abs(a - b) for a, b in zip(p, q)) / 2


def all_pairs():
    rows = []
    for i, first in enumerate(ANSWERS):
        for second in ANSWERS[i + 1 :]:
            times = round(COPIES / (1 + math.exp(REWARD[second] - REWARD[first])))
            for chosen, rejected, count in ((first, second, times), (second, first, COPIES - times)):
                rows += [{"prompt_ids": PROMPT, "chosen_ids": list(chosen), "rejected_ids": list(rejected)}] * count
    return rows


def letters():
    from tokenizers import Tokenizer, models

    words = {name: i for i, name in enumerate(["a", "b", "<eos>", "<pad>"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


@pytest.mark.parametrize("start", ["reference", "elsewhere"])
def test_dpo_reaches_the_exact_optimum(start, tmp_path):
    reference = tiny_lm(seed=0, scale=0.5, **SIZES)
    policy = copy.deepcopy(reference) if start == "reference" else tiny_lm(seed=9, **SIZES)
    weights = [p * math.exp(REWARD[a] / BETA) for a, p in zip(ANSWERS, distribution(reference))]
    target = [weight / sum(weights) for weight in weights]
    assert total_variation(distribution(policy), target) > (0.2 if start == "elsewhere" else 0.15)
    rows = all_pairs()
    args = DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=len(rows), max_steps=100, learning_rate=3e-2, beta=BETA,
        lr_scheduler_type="linear", max_grad_norm=0, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
        save_strategy="no", gradient_checkpointing=False, max_length=None, logging_strategy="no", weight_decay=0.0,
    )  # fmt: skip
    trainer = PairTrainer(
        model=policy, ref_model=reference, args=args, train_dataset=Dataset.from_list(rows), processing_class=letters()
    )
    trainer.train()
    assert total_variation(distribution(policy.eval()), target) < 0.05
