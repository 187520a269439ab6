"""The results of a run: measures on a development set, the directory of the model, and how it was made."""
