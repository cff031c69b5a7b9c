"""Training stages: each reads its inputs, trains, and hands an artifact back."""
