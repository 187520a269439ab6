"""Examples; those that are packages run as modules from the repository's root (``python -m examples.scaling``)."""
