"""A server that speaks as much of vLLM's HTTP interface as prefcli uses, and can be told to misbehave.

It samples by a loop of its own, prompt by prompt, and holds a model and adapters as vLLM does: by name, and only until
it is started again.
"""

from __future__ import annotations

import copy
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file


class FakeVLLM:
    """`faults` are looked at in every request: see `_Handler`. `seen` are the paths that were asked for."""

    def __init__(self, model: Any, tokenizer: Any, /, port: int = 0, **faults: Any) -> None:
        self.model, self.tokenizer, self.faults = copy.deepcopy(model), tokenizer, faults
        self.adapters: dict[str, Any] = {}
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

    def forget(self) -> None:
        """As after a start anew."""
        self.adapters.clear()

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
        logps = (raw / body["temperature"]).log_softmax(-1)
        keep = torch.ones_like(logps, dtype=torch.bool)
        order = logps.argsort(descending=True)
        if most := self.faults.get("top_k", body["top_k"]):
            keep[order[most:]] = False
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

    def do_POST(self) -> None:
        fake, faults = self.fake, self.fake.faults
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fake.seen.append(self.path)
        answering = self.path == "/v1/completions" and "prompt_logprobs" not in body and body["temperature"] != 2
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
            if fault in ("twice", "garbage", "cut", "other"):
                self._say(200, {"choices": _broken(fake.complete(body), fault)})
                return
        if ("dead" in faults and answering) or faults.get("drops") == self.path:
            self.close_connection = True
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
            return 200, {"choices": fake.complete(body)}
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
        return 404, {"detail": "Not Found"}

    def _say(self, status: int, content: Any) -> None:
        text = b"Success" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _broken(choices: list[dict[str, Any]], fault: str) -> Any:
    if fault == "twice":
        return [*choices, choices[0]]
    if fault == "garbage":
        return [{"index": choice["index"], "text": "hello"} for choice in choices]
    if fault == "cut":
        return [choice | {"finish_reason": "abort"} for choice in choices]
    turned = zip(choices, [*choices[1:], choices[0]])  # the answers of the prompts beside
    return [other | {"index": choice["index"]} for choice, other in turned]
