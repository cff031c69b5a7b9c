"""States of what DeepSpeed has split. DeepSpeed itself runs by hand (docs/scaling.md): here stand in for its functions
those that keep each process's flat, padded pieces as it does, of two processes at once."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from prefcli.artifacts.store import Draft
from prefcli.errors import ArtifactError, UsageError
from prefcli.models import zero3
from prefcli.stages import trl_trainer
from prefcli.stages.environment import environment, refuse_elsewhere
from prefcli.stages.state import read_state, write_state

SHAPES = {"weight": (3, 5), "bias": (1,), "norm": (4,)}


class Split:
    """Parameters over two processes: of each process one flat tensor, and torch's optimizer of it."""

    def __init__(self, monkeypatch, whole: dict[str, Tensor]) -> None:
        self.rank = 0
        self.parameters = {name: torch.nn.Parameter(torch.empty(0)) for name in whole}
        self.sizes = {name: math.ceil(value.numel() / 2) for name, value in whole.items()}
        self.starts = dict(zip(whole, itertools.accumulate(self.sizes.values(), initial=0)))
        self.shapes = {name: value.shape for name, value in whole.items()}
        self.zeros = []
        for rank in range(2):
            pieces = [zero3.piece_of(value, self.sizes[name], rank) for name, value in whole.items()]
            flat = torch.nn.Parameter(torch.cat(pieces))
            optimizer = torch.optim.AdamW([flat], lr=0.1)
            self.zeros.append(SimpleNamespace(fp32_partitioned_groups_flat=[flat], optimizer=optimizer))
        functions = {
            "safe_get_full_fp32_param": self.full,
            "safe_get_full_optimizer_state": self.full,
            "safe_get_local_fp32_param": self.local,
            "safe_set_local_fp32_param": self.set,
            "safe_set_local_optimizer_state": self.set,
        }
        monkeypatch.setattr(zero3, "_deepspeed", functions.__getitem__)
        monkeypatch.setattr(zero3.dist, "get_rank", lambda: self.rank)
        monkeypatch.setattr("prefcli.models.sharding.dist.get_rank", lambda: self.rank)

    def name(self, parameter: Tensor) -> str:
        return next(name for name, own in self.parameters.items() if own is parameter)

    def local(self, parameter: Tensor, moment: str | None = None, rank: int | None = None) -> Tensor:
        zero, name = self.zeros[self.rank if rank is None else rank], self.name(parameter)
        flat = zero.fp32_partitioned_groups_flat[0]
        held = flat if moment is None else zero.optimizer.state[flat][moment]
        return held.detach()[self.starts[name] :][: self.sizes[name]]

    def full(self, parameter: Tensor, moment: str | None = None) -> Tensor:
        shape = self.shapes[self.name(parameter)]
        joined = torch.cat([self.local(parameter, moment, rank) for rank in range(2)])
        return joined[: shape.numel()].view(shape)

    def set(self, parameter: Tensor, value: Tensor, moment: str | None = None) -> None:
        local = self.local(parameter, moment)
        assert value.shape == local.shape
        local.copy_(value)

    def step(self) -> None:
        for zero in self.zeros:
            flat = zero.fp32_partitioned_groups_flat[0]
            flat.grad = torch.sin(flat.detach() * 3)
            zero.optimizer.step()


def numbers() -> dict[str, Tensor]:
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def state(split: Split) -> dict[str, object]:
    weights = {name: zero3.Held(parameter) for name, parameter in split.parameters.items()}
    return {"weights": weights, "optimizer": zero3.state_of(split.zeros[0], split.parameters)}


@pytest.mark.parametrize("taken", [0, 3])
def test_a_state_of_what_is_split_goes_on_where_it_was(tmp_path, monkeypatch, taken):
    start = numbers()
    before = Split(monkeypatch, start)
    for _ in range(taken):
        before.step()
    before.zeros[0].optimizer.param_groups[0]["lr"] = 0.03
    before.zeros[1].optimizer.param_groups[0]["lr"] = 0.03
    write_state(tmp_path, state(before))
    saved = read_state(tmp_path)
    assert {name: tuple(weight.shape) for name, weight in saved["weights"].items()} == SHAPES
    if not taken:
        assert all(torch.equal(saved["weights"][name], start[name]) for name in start)
    before.step()
    expected = {name: before.full(parameter).clone() for name, parameter in before.parameters.items()}

    after = Split(monkeypatch, numbers())
    for after.rank in range(2):
        zero3.set_state(after.zeros[after.rank], after.parameters, saved["weights"], saved["optimizer"])
    after.step()
    for name, parameter in after.parameters.items():
        torch.testing.assert_close(after.full(parameter), expected[name], rtol=0, atol=0)


def test_a_run_of_deepspeed_is_resumed_under_deepspeed_alone(tmp_path, monkeypatch):
    plain = environment(torch.device("cpu"), torch.float32)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr("prefcli.stages.environment.version", lambda name: f"0.1 of {name}")
    split = environment(torch.device("cpu"), torch.float32)
    for before, now, said in (
        (split, plain, "deepspeed 0.1 of deepspeed, now none"),
        (plain, split, "deepspeed None, now 0.1 of deepspeed"),
    ):
        draft = Draft(tmp_path, 0, None)
        draft.note({"environment": before})
        with pytest.raises(ArtifactError, match=said):
            refuse_elsewhere(draft, now)
        draft.note({"environment": now})
        refuse_elsewhere(draft, now)


@pytest.mark.parametrize(
    ("optim", "dtype", "said"),
    [("adafactor", torch.float32, "--optim adafactor"), ("adamw", torch.float16, "--dtype float16")],
)
def test_what_deepspeed_cannot_give_back_is_refused(optim, dtype, said):
    session = SimpleNamespace(inputs=SimpleNamespace(config=SimpleNamespace(optim=optim)), dtype=dtype)
    with pytest.raises(UsageError, match=f"{said} does not run under DeepSpeed"):
        trl_trainer._refuse_what_is_not_split(session)
