"""The data formats, one small file each; the table of all is in registry.py, what rows become in data/row.py."""
