"""The command line of the running Pyserini command: whether it asks for our encoder, and how it ends without it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pyserini_llm_sparse.errors import LlmSparseError, explained, wants_traceback

ENCODER_CLASS = "csplade"
ENCODER_OPTIONS = ("--encoder", "--encoder-class")

running_command: str | None = None  # the Pyserini module that ``python -m`` runs, once it is known
chosen: dict[str, Any] = {}  # options that we added to a Pyserini command, as the user gave them


class PyseriniDefault(int):
    """A default of Pyserini's command line, equal to the number but telling that the user did not ask for it."""


class RememberChoice(argparse.Action):
    """Store an option in the namespace, as usual, and where the plugin finds it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value twice."""
        setattr(namespace, self.dest, values)
        chosen[self.dest] = values


def is_ours(encoder: object, encoder_class: object = None) -> bool:
    """Tell whether an encoder's name, or the class given for it, means this package."""
    from pyserini_llm_sparse.modelling import names

    if encoder_class is not None:
        return encoder_class == ENCODER_CLASS
    return isinstance(encoder, str) and names.is_ours(encoder)


def encoder_requested(arguments: Sequence[str] | None = None) -> bool:
    """Tell whether a Pyserini command line names our encoder or its class. Cheap, and False when in doubt."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        # argparse takes any unambiguous beginning of an option.
        if len(option) > 4 and any(known.startswith(option) for known in ENCODER_OPTIONS):
            if not equals:
                value = arguments[position + 1] if position + 1 < len(arguments) else ""
            try:
                if value == ENCODER_CLASS or is_ours(value):
                    return True
            except LlmSparseError:
                return True  # recognised as ours, but with a fault that is reported when it is loaded
    return False


def our_index_requested() -> bool:
    """Tell whether ``--index`` names an index that carries an encoding spec."""
    from pyserini_llm_sparse.modelling import names

    named = [argument.partition("=") for argument in sys.argv[1:]]
    following = [*sys.argv[2:], ""]
    return any(
        option == "--index" and (Path(value or after) / names.SPEC_FILE).is_file()
        for (option, _, value), after in zip(named, following, strict=True)
    )


def help_requested() -> bool:
    """Tell whether the command is to print its help."""
    return any(argument in ("-h", "--help") for argument in sys.argv[1:])


def start_command(module: str) -> None:
    """Note that ``python -m module`` is running: from now on our errors end it with one line."""
    global running_command
    running_command = module


def end_command(error: Exception) -> NoReturn:
    """Print the error's one line and leave with its exit code."""
    sys.stdout.flush()
    sys.stderr.write(f"{error}\n")
    raise SystemExit(getattr(error, "exit_code", LlmSparseError.exit_code)) from None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """In a command, turn errors that can be explained into one line and exit code; in a program, let them through."""
    try:
        yield
    except Exception as error:
        found = explained(error)
        if running_command is None or found is None or wants_traceback():
            raise
        end_command(found)
