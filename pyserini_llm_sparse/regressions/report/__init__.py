"""The report of a run, in Markdown and as one page."""
