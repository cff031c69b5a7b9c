"""Several processes that know nothing of each other do not each do all of a command's work."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from prefcli.cli.launched import SRUN, TOGETHER

DOCS = Path(__file__).parent.parent / "docs"
WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in (*WHOLE, SRUN):
        monkeypatch.delenv(name, raising=False)


def without(name):
    return {key: value for key, value in WHOLE.items() if key != name}


def refused(prefcli, command, env, *parts):
    result = prefcli(command, env=env)
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    for part in (*parts, "hint:"):
        assert part in result.stderr


@pytest.mark.parametrize("command", sorted(TOGETHER))
def test_a_command_that_srun_started_twice_is_refused(prefcli, command):
    refused(prefcli, command, {SRUN: "2"}, "srun started", "2 times", "srun -n 1")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("command", ["sample", "dpo"])
def test_half_of_torchruns_variables_are_refused(prefcli, command, name):
    refused(prefcli, command, without(name), *without(name))


@pytest.mark.parametrize("size", ["0", "two", "", "-1"])
def test_a_number_of_processes_that_is_none_is_refused(prefcli, size):
    refused(prefcli, "dpo", {"WORLD_SIZE": size}, "WORLD_SIZE must be")


@pytest.mark.parametrize("env", [
    {}, {"WORLD_SIZE": "1", "RANK": "0"}, {SRUN: "1"}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
    {"SLURM_NTASKS": "2", SRUN: "2"} | WHOLE,
])  # fmt: skip
def test_one_process_and_those_of_a_launcher_go_on(prefcli, env):
    """As far as to the option that is missing."""
    result = prefcli("dpo", env=env)
    assert result.exit_code == 2 and "--data is missing" in result.stderr


ALONE = ("sweep dpo", "compare", "frontier a", "report a", "export a b", "chat a", "ui", "serve-rm a")


@pytest.mark.parametrize("name", ["WORLD_SIZE", SRUN])
@pytest.mark.parametrize("words", ALONE)
def test_several_processes_of_a_command_that_works_alone_are_refused(prefcli, words, name):
    result = prefcli(*words.split(), env={name: "2"})
    assert (result.exit_code, result.stdout) == (2, "") and f"{name}=2 says that 2 were started" in result.stderr


def test_a_variable_that_is_empty_says_nothing_of_several_and_no_number_is_refused(prefcli):
    env = {"WORLD_SIZE": "", SRUN: ""}
    assert "single process" not in prefcli("report", "a", env=env).stderr
    planned = prefcli("sweep", "sft", "--model", "tiny", "--data", "x.jsonl", "--grid", "lr=1e-5", "--dry-run", env=env)
    assert planned.exit_code == 3  # the missing file, and no defect
    refused(prefcli, "ui", {"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number")


def test_commands_that_only_look_do_not_care(prefcli):
    assert prefcli("ls", env={SRUN: "2"}).exit_code == 0


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [("ddp", "MULTI_GPU", {}), ("fsdp", "FSDP", {"fsdp_config": {"fsdp_version": 2}}),
     ("deepspeed-zero3", "DEEPSPEED", {"deepspeed_config": {"zero_stage": 3, "zero3_save_16bit_model": True}})],
)  # fmt: skip
def test_the_files_for_accelerate_are_what_it_reads(name, kind, more):
    found = load_config_from_file(str(DOCS / f"accelerate/{name}.yaml"))
    assert (found.distributed_type, found.num_processes, found.mixed_precision) == (kind, 2, "no")
    assert not found.use_cpu
    for part, expected in more.items():
        assert getattr(found, part).items() >= expected.items()


@pytest.mark.parametrize("name", ["train", "nodes"])
def test_the_files_for_slurm_are_bash(name):
    done = subprocess.run(["bash", "-n", str(DOCS / f"slurm/{name}.sbatch")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_file_for_kubernetes_starts_one_process_a_gpu_in_each_pod():
    service, job = yaml.safe_load_all((DOCS / "kubernetes/train.yaml").read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (line,) = container["args"]
    words = line.split()
    given = {name: words[words.index(name) + 1] for name in ("--nnodes", "--nproc-per-node", "--master-addr")}
    assert given == {
        "--nnodes": str(job["spec"]["completions"]),
        "--nproc-per-node": str(container["resources"]["limits"]["nvidia.com/gpu"]),
        "--master-addr": f"{job['metadata']['name']}-0.{pod['subdomain']}",
    }
    assert job["spec"]["parallelism"] == job["spec"]["completions"] and "$JOB_COMPLETION_INDEX" in line
    assert (service["metadata"]["name"], service["spec"]["clusterIP"]) == (pod["subdomain"], "None")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
