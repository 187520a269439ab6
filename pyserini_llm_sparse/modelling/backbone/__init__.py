"""The language model behind the sparse head; the only room that touches transformers' internals."""
