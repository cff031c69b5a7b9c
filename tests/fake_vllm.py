"""A server that speaks as much of vLLM's HTTP interface as prefcli uses, and can be told to misbehave.

It samples by a loop of its own, prompt by prompt, and holds a model and adapters as vLLM does: by name, and only until
it is started again.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import math
import secrets
import threading
import time
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors.torch import load_file


class Gloo:
    """In the place of `transfer.Group`, which needs GPUs: the trainer's end and a worker's, in one process."""

    stores: dict[bytes, Any] = {}

    def __init__(self, device: Any = None) -> None:
        self.id = secrets.token_bytes(128)
        self.stores[self.id] = dist.HashStore()

    def join(self, size: int, rank: int = 0) -> None:
        self.group = dist.ProcessGroupGloo(self.stores[self.id], rank, size, timedelta(seconds=5))
        self.group.allreduce([torch.zeros(1)]).wait()

    def broadcast(self, tensors: Any) -> None:
        for tensor in tensors:
            self.group.broadcast(tensor.contiguous(), 0).wait()


class FakeVLLM:
    """`faults` are looked at in every request: see `_Handler`. `seen` are the paths that were asked for."""

    def __init__(self, model: Any, tokenizer: Any, /, port: int = 0, **faults: Any) -> None:
        self.model, self.tokenizer, self.faults = copy.deepcopy(model), tokenizer, faults
        self.adapters: dict[str, Any] = {}
        self.group: Any = None  # with a trainer
        self.sent: dict[str, Any] | None = None  # of an update that has begun
        self.seen: list[str] = []
        self.prompts = 0
        self.cached: dict[Any, Any] = {}  # likeliest answers, by prompt and salt: of other weights, if one is reused
        self.lock = threading.Lock()
        self.generator = torch.Generator().manual_seed(0)
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"fake": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> FakeVLLM:
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def pack(self, status: int, text: bytes) -> bytes:
        if "gzip" in self.faults:
            return reply(status, gzip.compress(text), "Content-Encoding: gzip")
        return reply(status, text)

    def forget(self) -> None:
        """As after a start anew."""
        self.adapters.clear()
        self.group, self.sent = None, None

    def load(self, name: str, path: str) -> None:
        if "stale" in self.faults and self.adapters:
            self.adapters[name] = list(self.adapters.values())[-1]
            return
        assert (Path(path) / "adapter_config.json").is_file(), path
        self.adapters[name] = PeftModel.from_pretrained(copy.deepcopy(self.model), path).eval()

    def reload(self, path: str) -> None:
        if "stale" not in self.faults:
            found = load_file(str(Path(path) / "model.safetensors"))
            self.model.load_state_dict(found, strict=False)
            self.model.tie_weights()

    def transferred(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """vLLM 0.32's routes of an update over NCCL."""
        if path == "/init_weight_transfer_engine":
            info = body["init_info"]
            group = Gloo()
            group.id = base64.b64decode(info["nccl_unique_id_b64"])
            group.join(info["world_size"], info["rank_offset"])
            self.group = group
        elif path == "/start_weight_update":
            if self.sent is not None:
                return 500, {"error": {"message": "a weight update is already active"}}
            self.sent = {}
        elif path == "/update_weights":
            if self.group is None or self.sent is None:
                return 500, {"error": {"message": "NCCL weight transfer not initialized."}}
            info = body["update_info"]
            formats = [getattr(torch, name) for name in info["dtype_names"]]
            tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in zip(info["shapes"], formats)]
            self.group.broadcast(tensors)
            self.sent |= zip(info["names"], tensors)
        elif path == "/finish_weight_update":
            if self.sent is None:
                return 500, {"error": {"message": "finish_weight_update called without a matching start"}}
            if "stale" not in self.faults:
                self.model.load_state_dict(self.sent, strict=False)
                self.model.tie_weights()
            self.sent = None
        else:
            return 404, {"detail": "Not Found"}
        return 200, {"message": "done"}

    def named(self, name: str | None) -> Any:
        if name is None or "without adapter" in self.faults:
            return self.model
        return self.adapters[name]

    @torch.no_grad()
    def complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        model, found = self.named(body.get("model")), []
        for index, prompt in enumerate(body["prompt"]):
            key = (body["cache_salt"], body["max_tokens"], *prompt)
            if body["temperature"] == 0 and key in self.cached:
                found.append(self.cached[key] | {"index": index})
                continue
            ids, logps = list(prompt), []
            scored: list[Any] = [None]
            if "prompt_logprobs" in body:
                raw = model(torch.tensor([prompt])).logits[0].float().log_softmax(-1)
                scored += [{str(t): {"logprob": float(raw[i, t])}} for i, t in enumerate(prompt[1:])]
            stops, reason = set(body["stop_token_ids"]) | set(self.faults.get("stops", ())), "length"
            cache = None
            while len(logps) < body["max_tokens"]:
                out = model(torch.tensor([ids if cache is None else ids[-1:]]), past_key_values=cache, use_cache=True)
                cache, raw = out.past_key_values, out.logits[0, -1].float()
                token, logp = self.draw(raw, body)
                ids.append(token)
                logps.append(logp)
                if token in stops:
                    reason = "stop"
                    break
            found.append(
                {
                    "index": index,
                    "finish_reason": reason,
                    "token_ids": ids[len(prompt) :],
                    "prompt_token_ids": prompt,
                    "logprobs": {"token_logprobs": logps},
                    "prompt_logprobs": scored,
                }
            )
            self.cached |= {key: found[-1]} if body["temperature"] == 0 else {}
        return found

    def draw(self, raw: torch.Tensor, body: dict[str, Any]) -> tuple[int, float]:
        if body["temperature"] == 0:
            token = int(raw.argmax())
            return token, float(raw.log_softmax(-1)[token])
        if "penalty" in self.faults:  # of every second token, whatever stands before
            raw = raw - self.faults["penalty"] * (torch.arange(len(raw)) % 2)
        logps = (raw / body["temperature"]).log_softmax(-1)
        keep = torch.ones_like(logps, dtype=torch.bool)
        order = logps.argsort(descending=True)
        if most := self.faults.get("top_k", body["top_k"]):
            keep[order[most:]] = False
        keep &= logps >= logps.max() + math.log(self.faults.get("min_p", body["min_p"]) or 1e-45)
        if (mass := self.faults.get("top_p", body["top_p"])) < 1:
            before = logps[order].exp().cumsum(0) - logps[order].exp()
            keep[order[before >= mass]] = False
        logps = logps.masked_fill(~keep, -torch.inf).log_softmax(-1)
        token = int(torch.multinomial(logps.exp(), 1, generator=self.generator))
        return token, float((raw.log_softmax(-1) if "raw" in self.faults else logps)[token])


class _Handler(BaseHTTPRequestHandler):
    fake: FakeVLLM

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.fake.seen.append(self.path)
        backend = self.fake.faults.get("transfer")
        if self.path == "/server_info?config_format=json" and "no dev" not in self.fake.faults:
            config = None if backend is None else {"backend": backend}
            self._say(200, {"vllm_config": {"weight_transfer_config": config}})
        elif self.path == "/get_world_size":
            self._say(200, {"world_size": 1})
        else:
            self._say(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        fake, faults = self.fake, self.fake.faults
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake.seen.append(self.path)
        answering = self.path == "/v1/completions" and "prompt_logprobs" not in body and body["temperature"] != 2
        if (said := faults.get("says", {}).get(self.path)) is not None:  # whatever was asked
            self._write(said)
            return
        if answering and faults.get("once"):  # a list of what happens to the next answers, one after the other
            fault = faults["once"].pop(0)
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "restart":
                fake.forget()
                self.close_connection = True
                return
            if fault == "fail":
                self._say(500, {"error": "EngineDeadError"})
                return
            if fault == "hang":
                time.sleep(1.5)
                return
            if fault == "slow":
                time.sleep(0.2)
            if fault in BROKEN:
                self._say(200, {"choices": _broken(fake.complete(body), fault)})
                return
            if isinstance(fault, bytes):
                self._write(fault)
                return
        if ("dead" in faults and answering) or faults.get("drops") == self.path:
            self.close_connection = True
            return
        if "drips" in faults and answering:
            with suppress(OSError):
                for byte in reply(200, b" " * 10_000):
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.02)
            return
        try:
            with fake.lock:
                self._say(*self._answered(body))
        except KeyError as error:
            self._say(404, {"error": {"message": f"The model {error} does not exist."}})

    def _answered(self, body: dict[str, Any]) -> tuple[int, Any]:
        fake, faults = self.fake, self.fake.faults
        if self.path == "/v1/completions":
            fake.prompts += len(body["prompt"])
            return 200, {"choices": faults.get("alter", list)(fake.complete(body))}
        if self.path == "/tokenize":
            if "messages" in body:
                if "template" in faults:
                    return 200, {"tokens": [1, 2, 3]}
                text = fake.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
                return 200, {"tokens": fake.tokenizer(text, add_special_tokens=False)["input_ids"]}
            ids = fake.tokenizer(body["prompt"])["input_ids"]
            return 200, {"tokens": ids[::-1] if "tokenizer" in faults else ids}
        if self.path == "/v1/load_lora_adapter":
            if "no lora" in faults:
                return 404, {"detail": "Not Found"}
            if body["lora_name"] in fake.adapters:
                return 400, {"error": {"message": f"The lora adapter {body['lora_name']} has already been loaded."}}
            fake.load(body["lora_name"], body["lora_path"])
            return 200, None
        if self.path == "/v1/unload_lora_adapter":
            return (200, None) if fake.adapters.pop(body["lora_name"], None) else (404, {"detail": "Not Found"})
        if self.path == "/collective_rpc" and "no dev" not in faults:
            assert body["method"] == "reload_weights"
            fake.reload(body["kwargs"]["weights_path"])
            return 200, {"results": [None]}
        return fake.transferred(self.path, body) if "transfer" in faults else (404, {"detail": "Not Found"})

    def _say(self, status: int, content: Any) -> None:
        text = b"Success" if content is None else json.dumps(content).encode()
        self._write(self.fake.pack(status, text))

    def _write(self, said: bytes) -> None:
        with suppress(OSError):  # who asked may be gone
            self.wfile.write(said)
        self.close_connection = True


def reply(status: int, body: bytes, *headers: str) -> bytes:
    """A whole answer, status line and all."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


BROKEN = ("twice", "garbage", "cut", "other", "no logps", "ids")


def _broken(choices: list[dict[str, Any]], fault: str) -> Any:
    if fault == "twice":
        return [*choices, choices[0]]
    if fault == "garbage":
        return [{"index": choice["index"], "text": "hello"} for choice in choices]
    if fault == "no logps":
        return [choice | {"logprobs": None} for choice in choices]
    if fault == "ids":
        return [choice | {"token_ids": [10**6 for _ in choice["token_ids"]]} for choice in choices]
    if fault == "cut":
        return [choice | {"finish_reason": "abort"} for choice in choices]
    turned = zip(choices, [*choices[1:], choices[0]])  # the answers of the prompts beside
    return [other | {"index": choice["index"]} for choice, other in turned]
