"""For `make engine`: vLLM's weight transfer with gloo where NCCL is, so that a CPU can run all the rest of it.

    … --worker-extension-cls scripts.gloo_worker.Worker --weight-transfer-config '{"backend": "nccl"}'

Runs in vLLM's own environment. In the id of a group, which NCCL makes, stands the port of the trainer's store.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine


class Gloo(NCCLWeightTransferEngine):
    def init_transfer_engine(self, init_info: Any) -> None:
        port = int(init_info.nccl_unique_id_bytes.rstrip(b"\0"))
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
        rank = init_info.rank_offset + self.parallel_config.rank
        self.group = dist.ProcessGroupGloo(store, rank, init_info.world_size, timedelta(seconds=60))
        self.group.allreduce([torch.zeros(1)]).wait()

    def receive_weights(self, update_info: Any) -> None:
        for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.broadcast(weight, 0).wait()
            self.model.load_weights([(name, weight)])

    def shutdown(self) -> None:
        self.group = None


class Worker:
    """Adds nothing: naming it has vLLM's worker import this file before it makes its engine."""


WeightTransferEngineFactory._registry["nccl"] = lambda: Gloo
