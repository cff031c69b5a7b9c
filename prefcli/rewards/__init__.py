"""Reward sources: reward models, Python functions, services."""
