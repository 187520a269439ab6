"""The training loop: subclasses of transformers' Trainer, and the folder of a run under way."""
