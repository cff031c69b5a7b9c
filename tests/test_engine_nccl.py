"""All weights over NCCL: what is sent, in which order, and what becomes of a server that fails. Gloo stands in."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch
from fake_vllm import FakeVLLM, Gloo, reply
from test_engine import check_answers, engine_of, prompts_of, quick, tiny  # noqa: F401

from prefcli.errors import SurroundingsError
from prefcli.models import transfer


@pytest.fixture(scope="module", autouse=True)
def joined():
    yield
    for thread in threading.enumerate():
        if thread.name == "nccl":  # one that is still in gloo as the interpreter ends aborts it
            thread.join()


@pytest.fixture
def trained(tiny, monkeypatch):  # noqa: F811
    monkeypatch.setattr(transfer, "Group", Gloo)
    return copy.deepcopy(tiny[0]), tiny[1]


def sending(trained, tmp_path, *servers, timeout=60):
    engine, said = engine_of(trained, tmp_path, *servers, timeout=timeout)
    engine._sends = True  # as on a GPU
    return engine, said


def learn(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


def test_all_weights_arrive_and_nothing_is_written(trained, tiny, tmp_path):  # noqa: F811
    with FakeVLLM(*tiny, transfer="nccl") as one, FakeVLLM(*tiny, transfer="nccl") as other:
        engine, said = sending(trained, tmp_path, one, other)
        for _ in range(3):
            engine.update()
            check_answers(engine, trained[0], prompts_of(tiny[1]))
            assert not (tmp_path / "weights").exists()
            learn(trained[0])
        for server in (one, other):
            assert [server.seen.count(f"/{path}") for path in ("init_weight_transfer_engine", "update_weights")] == [
                1,
                3,
            ]
            assert server.prompts > 3 * (3 + 3) and "/collective_rpc" not in server.seen
        one.faults["stale"] = True
        with pytest.raises(SurroundingsError, match="the previous update"):
            engine.update()


@pytest.mark.parametrize("faults", [{}, {"transfer": "ipc"}, {"no dev": True}])
def test_a_server_that_does_not_offer_it_takes_them_from_the_disk(trained, tiny, tmp_path, faults):  # noqa: F811
    with FakeVLLM(*tiny, **faults) as server:
        engine, _ = sending(trained, tmp_path, server)
        engine.update()
        check_answers(engine, trained[0], prompts_of(tiny[1]))
        assert "/collective_rpc" in server.seen and (tmp_path / "weights").exists()
        if "no dev" in faults:
            learn(trained[0])
            with pytest.raises(SurroundingsError, match="does not take new weights") as found:
                engine.update()
            assert """--weight-transfer-config '{"backend": "nccl"}'""" in found.value.hint


def test_on_a_cpu_nobody_is_asked_for_it(trained, tiny, tmp_path):  # noqa: F811
    with FakeVLLM(*tiny, transfer="nccl") as server:
        engine, _ = engine_of(trained, tmp_path, server)
        engine.update()
        assert "/collective_rpc" in server.seen and "/server_info?config_format=json" not in server.seen


@pytest.mark.parametrize("path", ["/init_weight_transfer_engine", "/start_weight_update", "/finish_weight_update"])
def test_a_connection_lost_on_the_way_is_made_good(trained, tiny, tmp_path, path):  # noqa: F811
    """Half an update is never used, and the group is made anew."""
    with FakeVLLM(*tiny, transfer="nccl") as server:
        engine, said = sending(trained, tmp_path, server)
        engine.update()
        learn(trained[0])
        engine._senders.clear()
        server.faults["drops"] = path
        engine._reporter.notice = lambda text: server.faults.pop("drops")
        engine.update()
        check_answers(engine, trained[0], prompts_of(tiny[1]))
        assert server.seen.count("/init_weight_transfer_engine") == 3


def test_a_server_that_was_started_again_gets_a_new_group(trained, tiny, tmp_path):  # noqa: F811
    with FakeVLLM(*tiny, transfer="nccl") as server:
        engine, _ = sending(trained, tmp_path, server)
        engine.update()
        server.faults["once"] = ["restart"]
        check_answers(engine, trained[0], prompts_of(tiny[1]))
        assert server.seen.count("/init_weight_transfer_engine") == 2


def test_one_that_says_yes_and_does_not_join_ends_the_run_in_time(trained, tiny, tmp_path):  # noqa: F811
    yes = {"/init_weight_transfer_engine": reply(200, b'{"message": "Weight transfer initialized"}')}
    with FakeVLLM(*tiny, transfer="nccl", says=yes) as server:
        engine, said = sending(trained, tmp_path, server, timeout=0.4)
        started = time.monotonic()
        with pytest.raises(SurroundingsError, match="did not take the weights over NCCL") as found:
            engine.update()
        assert found.value.exit_code == 7 and time.monotonic() - started < 5 and "trying again" in said[0]


def test_what_nccl_refuses_is_said(trained, tiny, tmp_path, monkeypatch):  # noqa: F811
    no = {"/init_weight_transfer_engine": reply(500, b'{"error": {"message": "Duplicate GPU detected"}}')}
    with FakeVLLM(*tiny, transfer="nccl", says=no) as server:
        engine, _ = sending(trained, tmp_path, server)
        with pytest.raises(SurroundingsError, match="over NCCL: HTTP 500 .*Duplicate GPU") as found:
            engine.update()
        assert "start it without --weight-transfer-config" in found.value.hint

    def join(group, size):
        raise RuntimeError("NCCL Error 5: invalid usage")

    monkeypatch.setattr(Gloo, "join", join)
    with FakeVLLM(*tiny, transfer="nccl", says={"/init_weight_transfer_engine": b""}) as server:
        engine, _ = sending(trained, tmp_path, server)
        with pytest.raises(SurroundingsError, match="no weights over NCCL: NCCL Error 5") as found:
            engine.update()
        assert "the same version of torch" in found.value.hint
