"""Training data: examples and texts as streams from files, directories and the hub; batches and sequences of them."""
