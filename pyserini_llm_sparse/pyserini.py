"""``python -m pyserini_llm_sparse.pyserini MODULE ...``: a Pyserini command with the plugin, where no hook can run.

Editable installs, ``python -S`` and ``pip install --target`` do not run start-up files:

    python -m pyserini_llm_sparse.pyserini pyserini.search.lucene --impact --encoder csplade ...
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.plugin import register


def main(arguments: Sequence[str] | None = None) -> None:
    """Register the plugin and run a module of Pyserini as ``python -m`` would."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].split(".")[0] != "pyserini":
        given = f"{arguments[0]!r}" if arguments else "nothing"
        sys.stderr.write(
            f"python -m pyserini_llm_sparse.pyserini: {given}: expected a module of Pyserini and its arguments; "
            "for example pyserini.search.lucene --help\n"
        )
        raise SystemExit(UsageError.exit_code)
    register()
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
