"""Artifacts: versioned directories that name what they were made from. No torch here."""
