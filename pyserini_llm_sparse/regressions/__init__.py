"""Regression recipes: systems run on test collections by Pyserini's own commands, and compared."""
