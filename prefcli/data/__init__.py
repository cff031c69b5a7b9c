"""Data: reading files, recognising formats, validating rows, tokenising."""
