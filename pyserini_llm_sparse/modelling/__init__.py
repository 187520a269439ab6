"""What a model is and what it computes: names, folder, contract, tokenizer, terms, vectors, torch's engine."""
