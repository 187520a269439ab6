"""The bridge into Pyserini: `register` makes its commands and classes answer to ``csplade``.

An installed package registers by itself when Pyserini is first imported. Nothing here imports Pyserini or torch.
"""

from __future__ import annotations


def register() -> None:
    """Patch what is imported of Pyserini and watch for what is not yet imported. Calling it again does nothing."""
    from pyserini_llm_sparse.plugin import hook

    hook.install()


def registered() -> bool:
    """Tell whether the plugin is at work in this process."""
    from pyserini_llm_sparse.plugin import hook

    return hook.installed()


def problems() -> list[str]:
    """Return what could not be patched so far in this process, one line each."""
    from pyserini_llm_sparse.plugin import drift

    return list(drift.problems)
