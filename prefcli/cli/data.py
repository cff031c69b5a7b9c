"""The `prefcli data` commands: what the files of rows are, and what can be made of them."""

from __future__ import annotations

from prefcli.cli.group import Entry, group

# In the order of the work. Each module has `run(config)`.
COMMANDS: dict[str, Entry] = {
    "formats": ("data_formats", "prefcli.config.data", "FormatsConfig", "List the forms of rows that are understood."),
    "convert": ("data_convert", "prefcli.config.data", "ConvertConfig", "Write a file's rows in another form."),
    "check": ("data_check", "prefcli.config.data_checks", "CheckConfig", "Find what is wrong with rows, and where."),
    "stats": ("data_stats", "prefcli.config.data_checks", "StatsConfig", "How many rows, how long, how labelled."),
    "split": ("data_split", "prefcli.config.data_checks", "SplitConfig", "Hold rows out: no prompt on both sides."),
}
HELP = "Look at files of rows, and make other files of them."
app = group("data", COMMANDS, HELP)
