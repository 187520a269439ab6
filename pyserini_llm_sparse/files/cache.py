"""The folder of what can be made again, but takes long: exports and tokens."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pyserini_llm_sparse.system import home_folder

_FOLDER = "pyserini-llm-sparse"
CACHE_VARIABLE = "PYSERINI_LLM_SPARSE_CACHE"


def cache_folder() -> Path:
    """Return the folder that `CACHE_VARIABLE` names, else one in the user's cache.

    A user who has no home, or may not write to it, has a temporary folder.
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    system = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    if system:
        return Path(system) / _FOLDER
    home = home_folder()
    if home is not None and os.access(home, os.W_OK):
        return home / ".cache" / _FOLDER
    return Path(tempfile.gettempdir()) / f"{_FOLDER}-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
