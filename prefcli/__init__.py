"""prefcli: teach a language model human preferences, by RLHF or by DPO, and measure which route won."""

__version__ = "0.1.0"
