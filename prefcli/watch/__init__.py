"""What looks at numbers and texts while PPO runs and says what it sees: explosion, hacking, collapse, stalling."""
