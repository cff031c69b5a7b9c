"""The losses of learning from preferences without a reward model: on pairs (DPO's family), on binary labels (KTO)."""
