"""From sampled answers to preference data: reward sources, language models and people as labellers."""
