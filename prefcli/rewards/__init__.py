"""Where a score comes from: reward models, Python functions."""
