"""The forms rows come in, one small file each; the table of all is in registry.py, what they become in data/row.py."""
