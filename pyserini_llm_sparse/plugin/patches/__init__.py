"""The patches of Pyserini's commands and classes, and of the process that they start in."""
