"""A small scaling study: sizes, sparse and dense, contrast and distillation, at one compute budget."""
