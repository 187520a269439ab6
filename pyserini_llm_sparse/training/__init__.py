"""Training of causal-LM sparse and dense retrievers: configuration, data, objectives, and the Trainer that runs them."""
