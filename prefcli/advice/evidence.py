"""The results behind the reasons: what papers report, and what this project measured, each with its source.

A paper's result is of its own models and data. The project's are of `tiny` on sample_data, one seed unless it says
otherwise, gold with a 95 % interval of about ±0.05; the page named has the table, and the command makes it again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    figure: str
    source: str


EVIDENCE = {
    "dpo": Evidence(
        "no sampling and little tuning; as good as PPO or better in its tests, on models of up to 6B",
        "arXiv 2305.18290",
    ),
    "demo": Evidence(
        "gold 0.30 → 0.51 by DPO in 14 s, → 0.52 by reward model and PPO in 50 s: no difference shown",
        "README.md: make demo",
    ),
    "seeds": Evidence(
        "over five seeds no run raised an alarm; two runs of DPO differ by 0.01 in gold, of PPO by 0.02",
        "docs/dpo-vs-rlhf.md: python scripts/findings.py",
    ),
    "disputed": Evidence("a tuned PPO came out ahead of DPO in every test, most of all in code", "arXiv 2404.10719"),
    "disputed-too": Evidence("PPO ahead by up to 2.5 % in maths and 1.2 % elsewhere", "arXiv 2406.09279"),
    "tuning": Evidence(
        "its lead over DPO takes normalised advantages, large batches and a reference that moves along",
        "arXiv 2404.10719",
    ),
    "lora": Evidence(
        "but with adapters on one base PPO's peak was 0.97 to 1.27 times DPO's, measured on a 135M model",
        "docs/ppo.md: python -m benchmarks layouts --pairs hh.jsonl",
    ),
    "memory": Evidence("calculated for your model and device, not measured", "docs/memory.md: prefcli mem-estimate"),
    "retrain": Evidence(
        "three rounds of new labels, the reward model trained on, PPO: gold 0.30 → 0.48 → 0.52 → 0.53",
        "docs/online.md: bash sample_data/online.sh",
    ),
    "overoptimised": Evidence(
        "too much of an imperfect reward model makes the true quality fall again", "arXiv 2210.10760"
    ),
    "hacked": Evidence(
        "without KL penalty a reward model's score rose 0.59 → 3.45 while gold fell 0.33 → 0.06",
        "docs/tiny.md: prefcli ppo --kl-coef 0 …",
    ),
    "two-rewards": Evidence("Llama 2 keeps two reward models, for helpfulness and for safety", "arXiv 2307.09288"),
    "mixing": Evidence(
        "but DPO on two files mixed half and half lost on neither objective, within intervals",
        "docs/dpo.md: prefcli dpo --data … --data-weight 0.5 …",
    ),
    "large": Evidence(
        "InstructGPT, up to 175B, and Llama 2, 70B, were trained with PPO", "arXiv 2203.02155, 2307.09288"
    ),
    "prompts": Evidence(
        "but of data, algorithm, reward model and more prompts, the prompts mattered least", "arXiv 2406.09279"
    ),
    "noise": Evidence("10 points more of wrong labels can cost 30 points of win rate", "arXiv 2404.09824"),
    "robust": Evidence(
        "corrects for labels that flip at a known rate; ahead of DPO on noisy labels in its tests", "arXiv 2403.00409"
    ),
    "robust-here": Evidence(
        "but with 10 % wrong labels gold was 0.52 by robust and 0.51 by DPO: no difference shown",
        "docs/dpo.md: prefcli dpo --loss robust",
    ),
    "ipo": Evidence(
        "the surer the preferences, the weaker DPO's tie to its reference; IPO's stays", "arXiv 2310.12036"
    ),
    "kto": Evidence("matches or exceeds methods on pairs, from 1B to 30B", "arXiv 2402.01306"),
    "kto-here": Evidence(
        "gold 0.30 → 0.52 on binary.jsonl, 0.51 by DPO on pairs",
        "docs/dpo.md: prefcli kto --data sample_data/binary.jsonl",
    ),
    "rlaif": Evidence("AI labels came out level with people's, on summaries and dialogue", "arXiv 2309.00267"),
    "rlaif-here": Evidence("gold 0.30 → 0.50 on 1,000 prompts", "docs/hybrids.md: bash sample_data/rlaif.sh"),
    "rejection": Evidence(
        "Llama 2 took rejection sampling alone until its fourth round, then PPO on top", "arXiv 2307.09288"
    ),
    "rejection-here": Evidence(
        "gold 0.30 → 0.46, furthest from the start (KL 0.94)", "docs/hybrids.md: bash sample_data/rejection_sampling.sh"
    ),
    "online": Evidence("labels on the model's own new answers beat fixed pairs, judged by people", "arXiv 2402.04792"),
    "iterative-here": Evidence(
        "gold 0.43, 0.48, 0.51 over three rounds, while the labeller was right less often each time",
        "docs/hybrids.md: bash sample_data/iterative_dpo.sh",
    ),
    "rloo": Evidence("ahead of PPO and DPO in its tests, and without a value model", "arXiv 2402.14740"),
    "parts": Evidence(
        "each part can be exchanged and watched by itself: reward, advantage, KL, clipping", "docs/ppo.md: prefcli ppo"
    ),
    "people": Evidence("one key a comparison, each kept on disk", "docs/people.md: prefcli label --by human"),
}
