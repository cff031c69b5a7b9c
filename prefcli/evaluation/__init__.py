"""Evaluation: metrics on models and on reward models, with their intervals."""
