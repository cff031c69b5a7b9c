"""Training monitors: they read each step's metrics and sampled answers and raise alarms."""
