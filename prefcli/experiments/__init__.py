"""Several runs of one stage: sweeps over options, seeds and rows, and what they say together."""
