"""Experiments on real models and on exact ones, each with its question and rule written down before it is run."""
