"""The drift of Pyserini from what this version knows: it is harmless unless our encoder was asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from pyserini_llm_sparse.errors import LlmSparseError, PrerequisiteError, explained, one_line
from pyserini_llm_sparse.plugin import command_line
from pyserini_llm_sparse.system import installed_version
from pyserini_llm_sparse.version import __version__

_logger = logging.getLogger(__name__)

TESTED = "Pyserini 1.6 and 2.0 to 2.4"
_OF_CHANGES = (AttributeError, ImportError, LookupError, NameError, SyntaxError, TypeError, ValueError)
problems: list[str] = []


class PyseriniChangedError(PrerequisiteError):
    """A place in Pyserini that the plugin patches is not as expected."""


def expect(condition: object, what: str) -> None:
    """Refuse to patch a place that is not as expected.

    Raises:
        PyseriniChangedError: The condition does not hold.
    """
    if not condition:
        raise PyseriniChangedError(what)


@contextmanager
def contained(module: str, fallback: str) -> Iterator[None]:
    """Keep a failed patch from breaking Pyserini: it is fatal only to a command that asks for our encoder.

    Errors that are about the user's own request end the command with their one line and exit code.

    Args:
        module: The Pyserini module that is being patched.
        fallback: Our own command that does the same job.
    """
    try:
        yield
    except Exception as error:
        reported = _explained(module, fallback, error)
        problems.append(str(reported))
        if command_line.encoder_requested():
            command_line.end_command(reported)
        _logger.debug("%s", reported)


def _explained(module: str, fallback: str, error: Exception) -> LlmSparseError:
    """Return what an error means: only some kinds can come of a place that is not as expected."""
    if not isinstance(error, (PyseriniChangedError, *_OF_CHANGES)):
        return explained(error) or LlmSparseError(
            f"{module}: {type(error).__name__}: {one_line(error)}; `python -m pyserini_llm_sparse doctor` looks for "
            "what is wrong with the installation"
        )
    reason = str(error) if isinstance(error, PyseriniChangedError) else f"{type(error).__name__}: {error}"
    return PyseriniChangedError(
        f"{module}: pyserini-llm-sparse {__version__} does not fit Pyserini {pyserini_version()}: {reason}; "
        f"run `python -m pyserini_llm_sparse {fallback}` instead, or install one of {TESTED}"
    )


def pyserini_version() -> str:
    """Return the installed version of Pyserini, ``(not installed)`` if there is none."""
    return installed_version("pyserini") or "(not installed)"
