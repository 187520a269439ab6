"""Problems that stay with what has them: one system's keep nothing of another from being found out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TypeVar

from pyserini_llm_sparse.errors import LlmSparseError, one_line

_logger = logging.getLogger(__name__)

Owner = TypeVar("Owner")


@contextmanager
def contained(problems: MutableMapping[Owner, str], owner: Owner) -> Iterator[None]:
    """Note what goes wrong inside as the problem of its owner, and go on.

    Args:
        problems: Why something failed, by what it is about.
        owner: What this is about; its first problem is kept.
    """
    try:
        yield
    except LlmSparseError as error:
        problems.setdefault(owner, str(error))
    except OSError as error:
        problems.setdefault(owner, f"{error.filename}: cannot be read or written: {error.strerror}; check the path")
    except Exception as error:
        _logger.debug("%s", owner, exc_info=True)
        problems.setdefault(owner, f"unexpected {type(error).__name__}: {one_line(error)}")
