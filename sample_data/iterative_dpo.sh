#!/usr/bin/env bash
# Iterative (online) DPO: three rounds of answers by the policy as it is, labels, and DPO, tied to the same reference
# throughout. docs/hybrids.md explains it.
set -euo pipefail

DATA=${DATA:-sample_data}
PER_ROUND=${PER_ROUND:-300}
export PREFCLI_RUNS=${PREFCLI_RUNS:-iterative-runs}
WORK=$PREFCLI_RUNS/rows
mkdir -p "$WORK"
GOLD="gold=python:$DATA/gold.py:score"

say() { printf '\n== %s\n' "$*" >&2; }

say "The start: a model that follows the format, and the labeller"
SFT=$(prefcli sft --model tiny --data "$DATA/demos.jsonl")
RM=$(prefcli train-rm --model "$SFT" --data "$DATA/pairs.jsonl" --batch-size 32 --epochs 2)
POLICY=$SFT

for ROUND in 1 2 3; do
    say "Round $ROUND: new prompts, answered four times by the policy as it is now"
    sed -n "$(((ROUND - 1) * PER_ROUND + 1)),$((ROUND * PER_ROUND))p" "$DATA/prompts.jsonl" > "$WORK/prompts$ROUND.jsonl"
    ANSWERS=$(prefcli sample --model "$POLICY" --prompts "$WORK/prompts$ROUND.jsonl" --num-generations 4 \
        --temperature 1 --max-new-tokens 32 --seed "$ROUND" --out "$WORK/answers$ROUND.jsonl")

    say "Round $ROUND: labelled"
    PAIRS=$(prefcli label --data "$ANSWERS" --by "${BY:-$RM}" --gold "$GOLD" --out "$WORK/pairs$ROUND.jsonl")

    say "Round $ROUND: training of the policy continues, with the same reference"
    POLICY=$(prefcli dpo --model "$POLICY" --reference "$SFT" --data "$PAIRS" --beta 0.1 --batch-size 32)
done

say "The ground truth on prompts that were never trained on, after each round"
prefcli eval --against "$SFT" --model dpo@v1 --model dpo@v2 --model dpo@v3 \
    --prompts "$DATA/held_out_prompts.jsonl" --reward "$GOLD"
