"""Waits for the first import of Pyserini and starts the plugin then; until that happens it compares one string.

Python runs `install` at start-up: from `pyserini_llm_sparse.pth`, and from `pyserini_llm_sparse.start` on interpreters
that know PEP 829. Setting PYSERINI_LLM_SPARSE_DISABLE=1 keeps it from doing anything.
"""

import os
import sys


class PyseriniTrigger:
    """A finder that finds nothing, but notices that Pyserini is about to be imported."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Start the plugin just before ``pyserini`` is looked for. Always returns None."""
        if name == "pyserini":
            sys.meta_path.remove(PyseriniTrigger)
            try:
                from pyserini_llm_sparse.plugin import register

                register()
            except Exception as error:
                # A fault of ours must not break a process that does not use us.
                if any("csplade" in argument.lower() for argument in sys.argv):
                    sys.stderr.write(f"pyserini_llm_sparse: the start-up hook failed: {error!r}; reinstall it\n")


def install():
    """Put the trigger in place, once, unless it is switched off."""
    if os.environ.get("PYSERINI_LLM_SPARSE_DISABLE", "0") in ("", "0") and PyseriniTrigger not in sys.meta_path:
        sys.meta_path.insert(0, PyseriniTrigger)
