"""The preparation of training data: hard negatives through Pyserini, and a teacher's scores."""
