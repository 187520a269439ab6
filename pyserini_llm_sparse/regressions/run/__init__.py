"""A recipe's run: the plan, its steps, and the commands that measure and explain."""
