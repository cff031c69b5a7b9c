#!/usr/bin/env bash
# The main job: both routes from preference data to a better model, and which one won.
# Copy it and put your own files and model in; docs/demo.md explains it line by line.
set -euo pipefail

DATA=${DATA:-sample_data}
export PREFCLI_RUNS=${PREFCLI_RUNS:-demo-runs}

say() { printf '\n== %s\n' "$*" >&2; }

say "What it will take: four models against two"
prefcli mem-estimate --model tiny

say "Stage 1, of both routes: supervised fine-tuning"
SFT=$(prefcli sft --model tiny --data "$DATA/demos.jsonl")

say "RLHF, stage 2: a reward model from pairs"
RM=$(prefcli train-rm --model "$SFT" --data "$DATA/pairs.jsonl" --batch-size 32 --epochs 2)

say "RLHF, stage 3: PPO against the reward model"
ROLLOUTS=(--max-steps 18 --ppo-epochs 2 --temperature 1 --kl-coef 0.2 --max-new-tokens 32)
PPO=$(prefcli ppo --model "$SFT" --reward "$RM" --prompts "$DATA/prompts.jsonl" "${ROLLOUTS[@]}")

say "The short route: DPO on the same pairs"
DPO=$(prefcli dpo --model "$SFT" --data "$DATA/pairs.jsonl" --beta 0.1 --batch-size 32)

say "Which route won? The first reward is the sample world's ground truth"
prefcli eval --model tiny --against "$SFT" --model "$PPO" --model "$DPO" \
    --prompts "$DATA/held_out_prompts.jsonl" --pairs "$DATA/held_out_pairs.jsonl" \
    --reward gold="python:$DATA/gold.py:score" --reward "$RM" --samples 3

say "A changed mind: the reward model alone is trained on, from new pairs; sft is reused, not redone"
SFT=$(prefcli sft --model tiny --data "$DATA/demos.jsonl")
RM2=$(prefcli train-rm --model "$RM" --data "$DATA/pairs_honest.jsonl" --batch-size 32)
PPO2=$(prefcli ppo --model "$SFT" --reward "$RM2" --prompts "$DATA/prompts.jsonl" "${ROLLOUTS[@]}" --max-steps 8)
prefcli eval --against "$PPO" --model "$PPO2" --prompts "$DATA/held_out_prompts.jsonl" \
    --reward honest="python:$DATA/gold.py:honest" --reward gold="python:$DATA/gold.py:score"

say "What there is now"
prefcli ls
prefcli show "$PPO2"
