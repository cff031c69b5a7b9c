#!/usr/bin/env bash
# Online RLHF: collect → label → train, three times over, on the sample world. docs/online.md explains it.
# gold.py stands for those who judge answers: people, or a stronger model behind label --by judge:URL#MODEL.
set -euo pipefail

DATA=${DATA:-sample_data}
PER_ROUND=${PER_ROUND:-300}
export PREFCLI_RUNS=${PREFCLI_RUNS:-online-runs}
WORK=$PREFCLI_RUNS/rows
mkdir -p "$WORK"
JUDGE="gold=python:$DATA/gold.py:score"

say() { printf '\n== %s\n' "$*" >&2; }

say "The start: a model that follows the format, and a first reward model from old pairs"
SFT=$(prefcli sft --model tiny --data "$DATA/demos.jsonl")
RM=$(prefcli train-rm --model "$SFT" --data "$DATA/pairs.jsonl" --batch-size 32)
POLICY=$SFT

for ROUND in 1 2 3; do
    say "Round $ROUND: new prompts, answered four times by the policy as it is now"
    sed -n "$(((ROUND - 1) * PER_ROUND + 1)),$((ROUND * PER_ROUND))p" "$DATA/prompts.jsonl" > "$WORK/prompts$ROUND.jsonl"
    prefcli sample --model "$POLICY" --prompts "$WORK/prompts$ROUND.jsonl" --num-generations 4 --temperature 1 \
        --max-new-tokens 32 --seed "$ROUND" --out "$WORK/answers$ROUND.jsonl"

    say "Round $ROUND: judged; the best answer to a prompt against the worst is a pair"
    prefcli label --data "$WORK/answers$ROUND.jsonl" --by "$JUDGE" --out "$WORK/pairs$ROUND.jsonl"

    say "Round $ROUND: the reward model learns from them, and training of the policy continues, with the same reference"
    RM=$(prefcli train-rm --model "$RM" --data "$WORK/pairs$ROUND.jsonl" --batch-size 32)
    POLICY=$(prefcli ppo --model "$POLICY" --reference "$SFT" --reward "$RM" --prompts "$WORK/prompts$ROUND.jsonl" \
        --max-steps 8 --ppo-epochs 2 --temperature 1 --kl-coef 0.2 --max-new-tokens 32)
done

say "The ground truth on prompts that were never trained on, after each round"
prefcli eval --against "$SFT" --model ppo@v1 --model ppo@v2 --model ppo@v3 \
    --prompts "$DATA/held_out_prompts.jsonl" --reward "$JUDGE"
