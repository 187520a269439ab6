"""The controlled comparison: attention variants, dense retrieval and a BERT SPLADE from the same data and budget."""
