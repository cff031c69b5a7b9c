"""Models: from a resolved reference to a model and its tokenizer; heads, adapters, generation, log-probabilities."""
