"""The analytic memory model: what a training run holds in memory, worked out from sizes alone, without torch.

sizes.py         "7B" to a number and back, bytes to text
families.py      how the families of models differ where it changes the number of parameters
architecture.py  one model's dimensions, and its parameters by formula
shapes.py        known models, and the typical dimensions of a size
model_files.py   an architecture from a config.json on disk
run.py           one description of a training run, and the one that a stage's options make
states.py        weights, gradients and optimizer states
activations.py   what a forward pass keeps, logits, the key-value cache
estimate.py      a run to bytes, by role and by part
fit.py           whether a run fits, the largest that does, and the cheapest changes that make one fit
methods.py       the methods side by side, and PPO against DPO
gpus.py          kinds of GPU and how many of them it takes
devices.py       the device of this machine
references.py    from a reference to a model to its config.json
"""
