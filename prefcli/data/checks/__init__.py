"""Checks of rows before a step is trained on them. `kinds` has the table, `run` goes through the files."""
