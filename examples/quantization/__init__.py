"""The quantisation study: number formats of the model, and static pruning of documents and queries."""
