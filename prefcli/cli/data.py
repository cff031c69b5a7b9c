"""The `prefcli data` commands: what the files of rows are, and what can be made of them."""

from __future__ import annotations

from prefcli.cli.group import Entry, group

# In the order of the work. Each module has `run(config)`.
COMMANDS: dict[str, Entry] = {
    "formats": ("data_formats", "prefcli.config.data", "FormatsConfig", "List the forms of rows that are understood."),
    "convert": ("data_convert", "prefcli.config.data", "ConvertConfig", "Write a file's rows in another form."),
}
HELP = "Look at files of rows, and make other files of them."
app = group("data", COMMANDS, HELP)
