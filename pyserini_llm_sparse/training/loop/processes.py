"""The processes of one run: what one of them does for all, and how all end if that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from pyserini_llm_sparse.errors import LlmSparseError

T = TypeVar("T")


def of_first_process(value: T) -> T:
    """Return, in all processes, what the first one gives."""
    shared = [value]
    if PartialState().num_processes > 1:
        broadcast_object_list(shared)
    return shared[0]


def in_first_process(act: Callable[[], None]) -> None:
    """Do something in the first process while the others wait; if it fails there, the others end without a word.

    Raises:
        SystemExit: In another process than the first, with the exit code of the error that the first one raises.
    """
    state = PartialState()
    outcome: list[int | None] = [None]
    try:
        if state.is_main_process:
            act()
    except BaseException as error:
        outcome = [error.exit_code if isinstance(error, LlmSparseError) else LlmSparseError.exit_code]
        raise
    finally:
        if state.num_processes > 1:
            broadcast_object_list(outcome)
    if outcome[0] is not None:
        raise SystemExit(outcome[0])
