"""Options: one file a command, one frozen dataclass in it."""
