"""All weights of a model to a vLLM server over NCCL, from GPU to GPU: no disk in between, and none shared.

A server started with --weight-transfer-config '{"backend": "nccl"}' reports it at /server_info. Trainer (rank 0)
and the server's workers make one group, whose id goes over HTTP. At an update names, formats and shapes go over
HTTP, and the tensors one after the other over NCCL while that request waits. After vLLM 0.32,
distributed/weight_transfer: another rank than vLLM's own must answer the group's first all_reduce of one float
(pynccl.py, from_unique_id_bytes).
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.cuda import nccl
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from prefcli.errors import SurroundingsError
from prefcli.models.served import PROBING, Down, Refused, Server


class Group:
    """The trainer and a server's workers, through torch's own NCCL, which takes ids that are made elsewhere.

    Nothing here can be broken off: where a worker stays away, the thread that calls stays too.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.id: bytes = nccl.unique_id()

    def join(self, size: int) -> None:
        with torch.cuda.device(self._device):
            self._comms = [nccl.init_rank(size, self.id, 0)]
            self._stream = torch.cuda.Stream()
            with torch.cuda.stream(self._stream):
                nccl.all_reduce([torch.zeros(1, device=self._device)], comms=self._comms)
            self._stream.synchronize()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        with torch.cuda.device(self._device):
            torch.cuda.synchronize()  # the update that made them may still run
            with torch.cuda.stream(self._stream):
                for tensor in tensors:
                    nccl.broadcast([tensor.contiguous()], comms=self._comms)
            self._stream.synchronize()


async def workers(server: Server) -> int | None:
    """Of a server that takes weights over NCCL; None of another. Raises Down."""
    try:
        told = await server.ask("/server_info?config_format=json", None, PROBING)
        size = await server.ask("/get_world_size", None, PROBING)
    except Refused:  # it is not in development mode
        return None
    try:
        return int(size["world_size"]) if told["vllm_config"]["weight_transfer_config"]["backend"] == "nccl" else None
    except (KeyError, TypeError, ValueError):
        return None


class Sender:
    """Sends one server all weights. Its group is made at the first time, and anew after every failure."""

    def __init__(self, model: PreTrainedModel, server: Server, size: int) -> None:
        self._model, self._server, self._size = model, server, size
        self._group: Group | None = None

    async def send(self, version: str) -> None:
        """Raises Down, Refused; SurroundingsError where NCCL fails here."""
        group, self._group = self._group, None
        try:
            if group is None:
                group = Group(self._model.device)
                await self._beside(
                    "/init_weight_transfer_engine",
                    {
                        "init_info": {
                            "nccl_unique_id_b64": base64.b64encode(group.id).decode(),
                            "rank_offset": 1,
                            "world_size": 1 + self._size,
                            "packed": False,
                        }
                    },
                    partial(group.join, 1 + self._size),
                )
            weights = named_weights(self._model)
            about = {
                "names": list(weights),
                "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()],
                "shapes": [list(tensor.shape) for tensor in weights.values()],
            }
            await self._begin()
            await self._beside(
                "/update_weights", {"update_info": about}, partial(group.broadcast, list(weights.values()))
            )
            await self._server.ask("/finish_weight_update", {"weight_version": version})
        except RuntimeError as error:
            raise SurroundingsError(
                f"--generate {self._server.url}: no weights over NCCL: {error}",
                "trainer and server need a GPU each and the same version of torch; a server without "
                "--weight-transfer-config takes them from a shared disk (docs/engine.md)",
            ) from error
        self._group = group

    async def _begin(self) -> None:
        try:
            await self._server.ask("/start_weight_update", {})
        except Refused:  # one that was broken off is still open
            await self._server.ask("/finish_weight_update", {})
            await self._server.ask("/start_weight_update", {})

    async def _beside(self, path: str, body: dict[str, Any], work: Callable[[], None]) -> None:
        """A request, and what this side does while it waits. Raises Down where either takes too long."""
        try:
            async with asyncio.timeout(self._server.timeout):
                await _both(self._server.ask(path, body), work)
        except TimeoutError as error:
            raise Down("it answered, and did not take the weights over NCCL") from error


@torch.no_grad()
def named_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Names and tensors as `save_pretrained` writes them, which vLLM reads: of tied weights one."""
    return revert_weight_conversion(model, remove_tied_weights_from_state_dict(model.state_dict(), model))


async def _both(asking: Coroutine[Any, Any, Any], work: Callable[[], None]) -> None:
    """`work` runs in a thread of its own, which is left behind where the other fails: it may stand for ever."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            work()
        except BaseException as error:
            loop.call_soon_threadsafe(tell, error)
        else:
            loop.call_soon_threadsafe(tell, None)

    threading.Thread(target=run, daemon=True, name="nccl").start()
    asked = asyncio.ensure_future(asking)
    try:
        await asyncio.gather(asked, done)
    finally:
        asked.cancel()
