"""CSPLADE's instability on a small model: contrastive training with and without adaptation."""
