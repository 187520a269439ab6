"""``python -m pyserini_llm_sparse``: the package's own commands."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and end it with the command's exit code."""
    from pyserini_llm_sparse.cli.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
