"""The application: all commands together, each ending with one line and its exit code if something is wrong."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from pyserini_llm_sparse.cli import doctor, encode, encode_queries, explain, export, index, push, regress, search, train
from pyserini_llm_sparse.cli.console import PROGRAM, examples, say
from pyserini_llm_sparse.errors import TRACEBACK, LlmSparseError, PartialError, explained, first_line, wants_traceback
from pyserini_llm_sparse.plugin import register
from pyserini_llm_sparse.plugin.patches.environment import share_cores
from pyserini_llm_sparse.system import LOGGER
from pyserini_llm_sparse.version import __version__

INTERRUPTED = 130
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
UNEXPECTED = 6
_BY_SIGNAL = 128  # with the number of a signal, the exit code that shells have for it

HELP = """Causal-LM learned sparse retrieval for Pyserini.

Exit codes: 0 done; 2 wrong usage; 3 a prerequisite is missing; 4 a file, model or disk space is missing; 5 bad data;
6 a run failed; 7 done, but some records were skipped; 130 interrupted, 143 ended by SIGTERM, 129 by its terminal.
"""

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

app = typer.Typer(
    name=PROGRAM,
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_SETTINGS,
    epilog=examples("encode --corpus corpus.jsonl --output vectors"),
)
for module in (encode, encode_queries, index, search, explain, export, regress, push, doctor):
    app.command(module.NAME, help=module.HELP, epilog=examples(*module.EXAMPLES), context_settings=_SETTINGS)(
        module.command
    )
app.add_typer(train.phase_app(_SETTINGS))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help=f"Show where an error was raised; {TRACEBACK}=1 does the same.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code; an error is one line on standard error.

    Args:
        arguments: The command line without the program's name, by default that of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # A global option, but an error is seen only after the command was typed: it is accepted anywhere.
    traceback = "--traceback" in given or wants_traceback()
    given = [argument for argument in given if argument != "--traceback"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # so that Ġ can be printed in any locale
    share_cores()
    register()  # Pyserini's libraries are used below, on machines where it could not be imported without
    code: int = UNEXPECTED
    try:
        with _ended_like_an_interrupt(), _log_to_console():
            app(args=given, prog_name=PROGRAM)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else UNEXPECTED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        # Whoever read the results has seen enough; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if traceback:
            raise
        shown = _explained(error)
        say(str(shown) if isinstance(shown, PartialError) else f"error: {shown}")
        code = shown.exit_code
    if code == INTERRUPTED:
        say("interrupted; give the same command again to go on")
    elif code in [_BY_SIGNAL + number for number in ENDING]:
        with contextlib.suppress(OSError):  # the terminal is gone
            say(f"ended by {signal.Signals(code - _BY_SIGNAL).name}; give the same command again to go on")
    return code


def _explained(error: Exception) -> LlmSparseError:
    """Return what an error means; of one that nobody has thought of, its kind and how to see more."""
    found = explained(error)
    if found is None:
        found = LlmSparseError(f"unexpected {type(error).__name__}: {first_line(error)}; --traceback shows where")
    return found


@contextlib.contextmanager
def _ended_like_an_interrupt() -> Iterator[None]:
    """Let signals to end do what an interrupt does: children end, unfinished files go, and one line tells it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(_BY_SIGNAL + number)

    taken = []
    if threading.current_thread() is threading.main_thread():  # no other may
        taken = [one for one in ENDING if signal.getsignal(one) is signal.SIG_DFL]  # as nohup has SIGHUP ignored
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


class _ConsoleHandler(logging.Handler):
    """Prints the package's log as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextlib.contextmanager
def _log_to_console() -> Iterator[None]:
    """Print the package's log while a command runs."""
    logger, handler = logging.getLogger(LOGGER), _ConsoleHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
