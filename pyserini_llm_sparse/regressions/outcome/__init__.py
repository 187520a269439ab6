"""The outcome of a run: scores with intervals, and costs."""
