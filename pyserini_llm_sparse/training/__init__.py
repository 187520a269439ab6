"""Training of causal-LM sparse and dense retrievers: run files, data, objectives and the Trainer that runs them."""
