#!/usr/bin/env bash
# RLAIF: a model's answers, labelled by a model, and DPO on those labels. docs/hybrids.md explains it.
# The labeller here is a reward model. A large language model labels with, for example,
#     BY='judge:https://api.example.com/v1#its-name' bash sample_data/rlaif.sh     (the key in OPENAI_API_KEY)
set -euo pipefail

DATA=${DATA:-sample_data}
export PREFCLI_RUNS=${PREFCLI_RUNS:-rlaif-runs}
WORK=$PREFCLI_RUNS/rows
mkdir -p "$WORK"
GOLD="gold=python:$DATA/gold.py:score"

say() { printf '\n== %s\n' "$*" >&2; }

say "The start: a model that follows the format, and the labeller"
SFT=$(prefcli sft --model tiny --data "$DATA/demos.jsonl")
RM=$(prefcli train-rm --model "$SFT" --data "$DATA/pairs.jsonl" --batch-size 32 --epochs 2)

say "Four answers to each prompt"
ANSWERS=$(prefcli sample --model "$SFT" --prompts "$DATA/prompts.jsonl" --num-generations 4 --temperature 1 \
    --max-new-tokens 32 --out "$WORK/answers.jsonl")

say "Labelled: the best answer to a prompt against the worst; --gold only says how good the labels are"
PAIRS=$(prefcli label --data "$ANSWERS" --by "${BY:-$RM}" --gold "$GOLD" --out "$WORK/pairs.jsonl")

say "DPO on those pairs"
DPO=$(prefcli dpo --model "$SFT" --data "$PAIRS" --beta 0.1 --batch-size 32)

say "The ground truth on prompts that were never trained on"
prefcli eval --against "$SFT" --model "$DPO" --prompts "$DATA/held_out_prompts.jsonl" --reward "$GOLD"
