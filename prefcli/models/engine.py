"""Answers from inference servers that hold a model's weights: `--generate http://host:port[,http://…]`.

At every update the weights are saved to a folder that the servers read too: an adapter is loaded under a name of its
own, so that no answer mixes two versions, and all weights are reloaded in place, or go from GPU to GPU
(`transfer.py`). Before a server is asked for anything it must pass the probe (`probe.py`), and again after each
failure: one that was started anew has other weights.

Prompts go to the server that has the fewest; one that fails is proven again, and left out where others answer. What is
still unanswered after the servers' time is a SurroundingsError.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from prefcli import exchange
from prefcli.config.shared import addresses
from prefcli.errors import SurroundingsError
from prefcli.models.adapters import save_model
from prefcli.models.generation import Sampled
from prefcli.models.probe import DRAWN, HOT, Fault, Probe
from prefcli.models.served import PROBING, Answer, Down, Odd, Refused, Server, in_short
from prefcli.models.transfer import Sender, workers
from prefcli.progress import Reporter, is_main_process, processes
from prefcli.urls import may_pass

SHORT = 5.0  # seconds for the first word of a server that was left out
AT_ONCE = 8  # prompts in a request
IN_FLIGHT = 32  # requests to each server at a time
BACKOFF, LONGEST = 0.5, 10.0  # seconds before a first and before a late retry
ANOTHER = "give the address of `vllm serve`, or of what passes its answers on unchanged (docs/engine.md)"
BY_NCCL = """--weight-transfer-config '{"backend": "nccl"}'"""


class Engine:
    """A `generation.Sampler`. `folder` is made, and must be on a disk that the servers see under the same path.

    Under torch.distributed the first process gives the servers the weights, and each asks for its own answers.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, generate: str, folder: Path, reporter: Reporter) -> None:
        self._model, self._reporter = model, reporter
        vocabulary = model.get_input_embeddings().num_embeddings
        self._servers = [
            Server(url.rstrip("/").removesuffix("/v1"), timeout, vocabulary) for url, timeout in addresses(generate)
        ]
        self._folder = folder.absolute()
        self._probe, self._taken, self._saved = Probe(model, tokenizer), 0, 0  # versions that each was done for
        self._name, self._number = f"prefcli-{secrets.token_hex(4)}", 0
        self._by_adapter = isinstance(model, PeftModel)
        self._sends = not self._by_adapter and next(model.parameters()).is_cuda
        self._senders: dict[Server, Sender | None] = {}  # None: by the disk
        self._sending = asyncio.Lock()
        self._failed: float | None = None  # when the first of failures did, after which nothing went well
        self._pause = BACKOFF

    @property
    def version(self) -> str:
        """The name of the weights that the servers have."""
        return f"{self._name}-{self._number}"

    def update(self) -> None:
        """Save the weights, and have the servers take and prove them.

        Raises SurroundingsError: a server has other weights afterwards, or none answers.
        """
        self._number += 1
        if is_main_process():
            for server in self._servers:
                server.alive = False
            self._await(self._servers)
            shutil.rmtree(self._folder / f"{self._name}-{self._number - 1}", ignore_errors=True)
        if processes() > 1:
            told: list[Any] = [self._name, [(s.alive, s.left_out, s.proven) for s in self._servers]]
            torch.distributed.broadcast_object_list(told)
            self._name = told[0]
            self._saved = self._number
            for server, state in zip(self._servers, told[1]):
                server.alive, server.left_out, server.proven = state

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        eos_ids: frozenset[int],
        pad_id: int = 0,
        temperature: float = 1.0,
        draws: Tensor | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], None] | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> Sampled:
        """Raises SurroundingsError: no server answers, one has other weights, or ends its answers otherwise."""
        found: dict[int, Answer] = {}
        todo = deque(range(start, min(start + AT_ONCE, len(prompts))) for start in range(0, len(prompts), AT_ONCE))
        done: deque[range] = deque()  # parts that nobody was told of yet
        problems: list[tuple[Server, Down]] = []

        async def work() -> None:
            while todo and (alive := [server for server in self._servers if server.alive]):
                server = min(alive, key=lambda one: one.rows)
                part = todo.popleft()
                server.rows += len(part)
                try:
                    answers = await server.complete(
                        self._served_as,
                        [prompts[i] for i in part],
                        max_new_tokens=max_new_tokens,
                        temperature=0.0 if draws is None else temperature,
                        eos_ids=eos_ids,
                        salt=self.version,
                    )
                except Down as problem:
                    server.alive = False
                    self._senders.pop(server, None)
                    problems.append((server, problem))
                    todo.appendleft(part)
                else:
                    found.update(zip(part, answers))
                    done.append(part)
                finally:
                    server.rows -= len(part)

        async def work_together() -> None:
            await asyncio.gather(*(work() for _ in range(min(len(todo), IN_FLIGHT * len(self._servers)))))

        def tell() -> None:
            while done:
                part = done.popleft()
                if progress is not None:
                    progress(len(part))
                if on_token is None:
                    continue
                for i in part:
                    for token in found[i].ids:
                        on_token(i, token)

        while todo:
            self._await([server for server in self._servers if not server.alive and not server.left_out])
            before = len(found)
            exchange.wait(work_together(), tell)
            tell()
            if len(found) > before:
                self._failed = None
            elif todo:
                self._be_patient(dict(problems))
        answers = [found[i] for i in range(len(prompts))]
        return Sampled([answer.ids for answer in answers], [answer.logps for answer in answers])

    def close(self) -> None:
        """Take the folder from the disk, and the adapter from the servers that answer."""
        if is_main_process():
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._by_adapter:
                alive = [server for server in self._servers if server.alive]
                exchange.wait(_together(self._unload(server, self._number) for server in alive))

    @property
    def _served_as(self) -> str | None:
        return self.version if self._by_adapter else None

    def _await(self, wanted: Sequence[Server]) -> None:
        """Prove these servers. Those that do not answer are left out where another does; where none does, all are
        tried until the time is up."""
        while wanted:
            failed = self._prove(wanted)
            if any(server.alive for server in self._servers):
                for server, problem in failed.items():
                    if not server.left_out:
                        server.left_out = True
                        answering = sum(other.alive for other in self._servers)
                        self._reporter.notice(
                            f"--generate {server.url} does not answer ({problem}) and is left out: {answering} of "
                            f"{len(self._servers)} servers answer"
                        )
                return
            self._be_patient(failed)
            wanted = self._servers

    def _be_patient(self, failed: dict[Server, Down]) -> None:
        """Wait a little. Raises SurroundingsError where the time is up."""
        now, most = time.monotonic(), max(server.timeout for server in self._servers)
        told = "; ".join(f"{server.url}: {problem}" for server, problem in failed.items())
        if self._failed is None:
            self._failed, self._pause = now, BACKOFF
            self._reporter.notice(f"--generate {told}; trying again for up to {most:g} s")
        if now + self._pause > self._failed + most:
            raise SurroundingsError(
                f"--generate {told}; no answer in {most:g} s",
                "is the server running? The same command resumes; #timeout=SECONDS after the URL changes the time",
            )
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST)

    def _prove(self, wanted: Sequence[Server]) -> dict[Server, Down]:
        """Those of the servers that do not answer; the others have the weights afterwards.

        Raises SurroundingsError: one has others, or does not take them.
        """
        if self._taken != self._number:
            self._probe.take()
            self._taken = self._number
        self._save_for(wanted)
        failed: dict[Server, Down] = {}
        outcomes = exchange.wait(_together(self._told(server) for server in wanted))
        for server, outcome in zip(wanted, outcomes):
            if isinstance(outcome, Odd) and not server.proven:
                raise SurroundingsError(
                    f"--generate {server.url} does not answer like a vLLM server: {outcome}", ANOTHER
                )
            if isinstance(outcome, Down):
                failed[server] = outcome
                self._senders.pop(server, None)
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            fault = outcome if isinstance(outcome, Fault) else self._probe.fault(*outcome)
            if fault is not None:
                raise SurroundingsError(f"--generate {server.url}: {fault.said}", fault.hint)
            if server.left_out:
                self._reporter.notice(f"--generate {server.url} answers again")
            server.alive = server.proven = True
            server.left_out = False
        return failed

    def _save_for(self, wanted: Sequence[Server]) -> None:
        """Save the weights, once, for those that do not take them over NCCL; which is asked anew after each failure."""
        alone = processes() == 1  # a server has one group, and each process may have to prove it anew
        new = [server for server in wanted if self._sends and alone and server not in self._senders]
        for server, size in zip(new, exchange.wait(_together(workers(server) for server in new))):
            if not isinstance(size, BaseException):
                self._senders[server] = None if size is None else Sender(self._model, server, size)
        if self._saved < self._number and not all(self._senders.get(server) for server in wanted):
            save_model(self._model, self._folder / self.version)
            self._saved = self._number

    async def _told(self, server: Server) -> Fault | tuple[list[Answer], list[Answer]]:
        """Give a server the weights; its answers to the probe, or what is wrong with its tokenizer."""
        for what, body, ids in self._probe.tokens_asked():
            try:
                told = await server.ask("/tokenize", body, SHORT if server.left_out else PROBING)
            except Refused as refused:
                if refused.status in (401, 403):
                    raise SurroundingsError(f"--generate {server.url}: {refused}", "start it without a key") from None
                if may_pass(refused.status):
                    raise Down(str(refused)) from refused
                continue  # it has no such route, or no template
            if not isinstance(told, dict) or not isinstance(told.get("tokens"), list):
                raise Odd(f"no tokens of a text, but {in_short(told)}")
            if told["tokens"] != ids:
                return Fault(
                    f"it has another {what} than the model here",
                    "serve the model that is named here, or start the server with that one's --tokenizer",
                )
        await self._load(server)
        ask: dict[str, Any] = {"eos_ids": frozenset(), "salt": self.version}
        name, prompts = self._served_as, self._probe.prompts
        scored: list[Answer] = []
        for prompt in prompts:  # several at once kill vLLM 0.32 on a CPU where there is an adapter
            scored += await server.complete(name, [prompt], max_new_tokens=1, temperature=1.0, score=True, **ask)
        return scored, await server.complete(name, prompts, max_new_tokens=DRAWN, temperature=HOT, **ask)

    async def _load(self, server: Server) -> None:
        path, sender = str(self._folder / self.version), self._senders.get(server)
        try:
            if self._by_adapter:
                await server.ask("/v1/load_lora_adapter", {"lora_name": self.version, "lora_path": path})
                await self._unload(server, self._number - 1)
            elif sender is not None:
                async with self._sending:  # two groups at once on one GPU may wait for each other
                    await sender.send(self.version)
            else:
                body = {"method": "reload_weights", "kwargs": {"weights_path": path}}
                await server.ask("/collective_rpc", body)
        except Refused as refused:
            if self._by_adapter and refused.status == 400 and "already" in str(refused):
                return  # before a connection was lost
            if may_pass(refused.status) and refused.status != 500:  # which is what vLLM says to a folder it cannot read
                raise Down(str(refused)) from refused
            if not self._by_adapter and refused.status == 404 and self._number == 1:
                return  # it may have been started with these very weights, which the probe tells
            if sender is not None:
                raise SurroundingsError(
                    f"--generate {server.url} does not take new weights over NCCL: {refused}",
                    f"start it without {BY_NCCL}: it takes them from a shared disk then (docs/engine.md)",
                ) from refused
            need = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 --enable-lora --max-lora-rank RANK, on the same disk"
            if not self._by_adapter:
                need = "VLLM_SERVER_DEV_MODE=1, on the same disk, or train an adapter: --lora-rank 16"
            if self._sends:
                need += f". Without a shared disk: VLLM_SERVER_DEV_MODE=1 and {BY_NCCL}"
            raise SurroundingsError(
                f"--generate {server.url} does not take new weights from {path}: {refused}",
                f"start vLLM with {need} (docs/engine.md)",
            ) from refused

    async def _unload(self, server: Server, number: int) -> None:
        try:
            await server.ask("/v1/unload_lora_adapter", {"lora_name": f"{self._name}-{number}"}, SHORT)
        except (Down, Refused):
            pass  # the server makes room by itself


async def _together(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """The outcome of each, or what it raised."""
    return await asyncio.gather(*work, return_exceptions=True)
