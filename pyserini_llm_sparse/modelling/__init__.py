"""Models and what they compute: names, folder, contract, tokenizer, terms, vectors, torch's engine."""
