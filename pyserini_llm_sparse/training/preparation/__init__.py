"""Before a retriever is trained: hard negatives through Pyserini, and a teacher's scores."""
