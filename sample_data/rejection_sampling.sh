#!/usr/bin/env bash
# Rejection sampling (best of n): the best of a model's own answers become its next demonstrations.
# docs/hybrids.md explains it.
set -euo pipefail

DATA=${DATA:-sample_data}
export PREFCLI_RUNS=${PREFCLI_RUNS:-rejection-runs}
WORK=$PREFCLI_RUNS/rows
mkdir -p "$WORK"
GOLD="gold=python:$DATA/gold.py:score"

say() { printf '\n== %s\n' "$*" >&2; }

say "The start: a model that follows the format, and what picks the best answer"
SFT=$(prefcli sft --model tiny --data "$DATA/demos.jsonl")
RM=$(prefcli train-rm --model "$SFT" --data "$DATA/pairs.jsonl" --batch-size 32 --epochs 2)

say "Four answers to each prompt"
ANSWERS=$(prefcli sample --model "$SFT" --prompts "$DATA/prompts.jsonl" --num-generations 4 --temperature 1 \
    --max-new-tokens 32 --out "$WORK/answers.jsonl")

say "The best of the four"
BEST=$(prefcli label --data "$ANSWERS" --by "${BY:-$RM}" --gold "$GOLD" --to best --out "$WORK/best.jsonl")

say "Fine-tuned on them, from where it was"
BETTER=$(prefcli sft --model "$SFT" --data "$BEST" --name rejection)

say "The ground truth on prompts that were never trained on"
prefcli eval --against "$SFT" --model "$BETTER" --prompts "$DATA/held_out_prompts.jsonl" --reward "$GOLD"
