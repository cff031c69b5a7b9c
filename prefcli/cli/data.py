"""The `prefcli data` commands: inspect files of rows and convert them."""

from __future__ import annotations

from prefcli.cli.group import Entry, group

# In the order of the work.
COMMANDS: dict[str, Entry] = {
    "formats": Entry(
        "data_formats", "prefcli.config.data", "FormatsConfig", "List the formats of rows that are understood.",
        ("prefcli data formats", "prefcli data formats --json"),
    ),
    "convert": Entry(
        "data_convert", "prefcli.config.data", "ConvertConfig", "Write a file's rows in another format.",
        ("prefcli data convert pairs.csv pairs.jsonl",
         "prefcli data convert raw.parquet demos.jsonl --map prompt=question"),
    ),
    "check": Entry(
        "data_check", "prefcli.config.data_checks", "CheckConfig", "Find what is wrong with rows, and where.",
        ("prefcli data check pairs.jsonl", "prefcli data check pairs.jsonl --against held_out.jsonl --model sft"),
    ),
    "stats": Entry(
        "data_stats", "prefcli.config.data_checks", "StatsConfig", "Count rows, and measure their lengths and labels.",
        ("prefcli data stats pairs.jsonl", "prefcli data stats pairs.jsonl --model sft --plot lengths.png"),
    ),
    "split": Entry(
        "data_split", "prefcli.config.data_checks", "SplitConfig",
        "Hold out rows; all rows of a prompt go to one side.",
        ("prefcli data split pairs.jsonl", "prefcli data split pairs.jsonl --held-out 0.2 --out-dir data --seed 1"),
    ),
}  # fmt: skip
HELP = "Inspect data files and convert them."
app = group(
    "data",
    COMMANDS,
    HELP,
    examples=("prefcli data check pairs.jsonl", "prefcli data convert pairs.csv pairs.jsonl"),
)
