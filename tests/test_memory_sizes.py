"""Sizes as people write them, and kinds of GPU."""

from __future__ import annotations

import pytest

from prefcli.errors import UsageError
from prefcli.memory.devices import device
from prefcli.memory.gpus import GPUS, IMPORTS, find_gpu
from prefcli.memory.shapes import by_name
from prefcli.memory.sizes import format_bytes, format_count, parse_count
from prefcli.progress import SILENT


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7B", 7_000_000_000),
        ("7b", 7_000_000_000),
        ("0.5b", 500_000_000),
        (".5B", 500_000_000),
        ("125M", 125_000_000),
        ("1.5e9", 1_500_000_000),
        ("1.5E+9", 1_500_000_000),
        ("7000000000", 7_000_000_000),
        ("7_000_000_000", 7_000_000_000),
        ("7,000,000,000", 7_000_000_000),
        (" 6.74 B ", 6_740_000_000),
        ("1T", 10**12),
        ("900k", 900_000),
    ],
)
def test_parse_count(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "banana",
        "",
        "-3",
        "-7B",
        "0",
        "0B",
        "nan",
        "inf",
        "1e30",
        "1e999",
        "1e9999",
        "7",
        "7BB",
        "7 000",
        "1,5B",
        "0x7",
        "B",
        "٧B",
        "9" * 400,
        "7B\n8B",
    ],
)
def test_parse_count_refuses(text):
    with pytest.raises(UsageError) as raised:
        parse_count(text)
    assert "--params" in raised.value.message and raised.value.hint


def test_a_bare_small_number_is_taken_for_a_slip():
    with pytest.raises(UsageError) as raised:
        parse_count("7")
    assert "7B" in raised.value.hint


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (7e9, "7B"),
        (28e9, "28B"),
        (6_738_415_616, "6.74B"),
        (134_515_008, "135M"),
        (999_999_999, "1B"),
        (999, "999"),
        (1e12, "1T"),
        (1_000, "1K"),
        (5e17, "500000T"),
    ],
)
def test_format_count(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(252e9, "252 GB"), (77_309_411_328, "77.3 GB"), (1.5e6, "1.5 MB"), (512, "512 B"), (0, "0 B"), (2e12, "2 TB")],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize("name", ["A100-80GB", "a100-80gb", "A100 80GB", "a100_80gb"])
def test_find_gpu_whatever_the_spelling(name):
    assert find_gpu(name).name == "A100-80GB"


def test_find_gpu_by_the_short_name_where_there_is_one():
    assert find_gpu("h100").name == "H100-80GB"
    with pytest.raises(UsageError) as raised:
        find_gpu("A100")
    assert raised.value.hint == "say A100-40GB or A100-80GB"


@pytest.mark.parametrize(
    ("name", "near"), [("A100-8GB", "A100-80GB"), ("H10-80GB", "H100-80GB"), ("RTX4095", "RTX4090-24GB")]
)
def test_unknown_gpu_names_the_nearest(name, near):
    with pytest.raises(UsageError) as raised:
        find_gpu(name)
    assert f"did you mean {near}?" in raised.value.hint


@pytest.mark.parametrize("name", ["", "zzz", "-"])
def test_unknown_gpu_without_a_near_one_lists_all(name):
    with pytest.raises(UsageError) as raised:
        find_gpu(name)
    assert raised.value.hint.startswith("known kinds") and "H200-141GB" in raised.value.hint


def test_known_gpus_have_the_memory_in_their_name_and_a_source():
    assert len(GPUS) == len({gpu.name for gpu in GPUS}) >= 12
    for gpu in GPUS:
        named = int(gpu.name.rpartition("-")[2].removesuffix("GB"))
        assert named * 0.97e9 <= gpu.bytes <= named * 1024**3, gpu.name
        assert gpu.source


@pytest.mark.parametrize(
    ("text", "size"), [("16GB", 16e9), ("16 gb", 16e9), ("23.5GB", 23.5e9), ("80GiB", 80 * 2**30), ("24g", 24e9)]
)
def test_a_size_is_a_gpu_too(text, size):
    assert find_gpu(text).bytes == size and device(text).count == 1


@pytest.mark.parametrize("text", ["0GB", "99999999GB"])
def test_a_size_that_no_device_has_is_refused(text):
    with pytest.raises(UsageError, match="not the memory of a device"):
        find_gpu(text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("RTX A6000", "RTXA6000-48GB"), ("NVIDIA GeForce RTX 3060", "RTX3060-12GB"), ("rtx 4080", "RTX4080-16GB"),
     ("RTX 5060 Ti 16GB", "RTX5060Ti-16GB"), ("Radeon RX 7900 XTX", "RX7900XTX-24GB"), ("titan rtx", "TitanRTX-24GB"),
     ("4090", "RTX4090-24GB"), ("A6000", "RTXA6000-48GB")],
)  # fmt: skip
def test_cards_that_people_own_are_known_by_what_is_printed_on_them(name, kind):
    assert find_gpu(name).name == kind


def test_a_cpu_and_a_mac_have_this_machines_memory_or_what_is_said(monkeypatch):
    monkeypatch.setattr("prefcli.memory.devices.memory_limit", lambda: 32 * 10**9)
    for name, size in (("cpu", 32e9), ("mps", 32e9), ("mps-64GB", 64e9), ("cpu 8GB", 8e9), ("MPS", 32e9)):
        found = device(name)
        assert (found.bytes, found.count, found.bf16) == (size, 0, False)
        assert found.usable_bytes == 0.9 * size - IMPORTS
    with pytest.raises(UsageError, match="--gpus 2"):
        device("mps", 2)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7_000_000_000),
        ("Qwen/Qwen3-30B-A3B", 30_000_000_000),
        ("mistralai/Mixtral-8x7B-v0.1", None),
        ("meta-llama/Llama-4-Scout-17B-16E", None),  # of 109B, 17B go through
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", None),
    ],
)
def test_a_size_is_read_from_a_name_that_says_all_of_it(name, size):
    found = by_name(name, SILENT)
    assert size == (found and found.parameters)
