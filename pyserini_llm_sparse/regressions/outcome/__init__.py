"""The outcome of a run: scores with intervals, costs, details and problems."""
