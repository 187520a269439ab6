"""The process that encodes one shard for `vectors.devices`: a job comes in on standard input, events go out on output.

The job is one line of JSON, `Shard`. Then the input stays open; where it ends, the parent is gone, and so is this
process. Each event is a line of JSON with one key: ``ready`` where the output is to be made anew, which then waits for
a line that says that it is empty; ``note`` with a text, ``progress`` with a number and whether it was done now, and
last ``report``, or ``error`` with a class of `errors` and the message.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import orjson

from pyserini_llm_sparse.children import end_when_closed
from pyserini_llm_sparse.errors import LlmSparseError, explained, one_line, wants_traceback
from pyserini_llm_sparse.system import LOGGER

_STANDARD_INPUT = 0


@dataclass(frozen=True)
class Shard:
    """What one process does.

    Attributes:
        encoder: An encoder name.
        loading: Arguments of `SparseEncoder.load`, device and threads among them.
        encoding: Arguments of `encode_corpus`, those of the shard among them.
        anew: Whether to wait, when all is ready, for what the output holds to be removed.
    """

    encoder: str
    loading: dict[str, Any]
    encoding: dict[str, Any]
    anew: bool = False


def main() -> None:
    """Do the job of this process."""
    # An interrupt reaches all of a terminal's processes: the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    emit = _events()
    shard = Shard(**orjson.loads(sys.stdin.buffer.readline()))
    # At once: what is done is recorded, and the rest is done again.
    told = threading.Event()
    end_when_closed(_STANDARD_INPUT, partial(os._exit, 1), told.set)

    def begin() -> None:
        emit({"ready": True})
        told.wait()

    try:
        emit({"report": _encoded(shard, emit, begin if shard.anew else None)})
    except LlmSparseError as error:
        emit({"error": [type(error).__name__, str(error)]})
    except Exception as error:  # whatever it is, the parent must be told
        if wants_traceback():
            traceback.print_exc()
        found = explained(error) or LlmSparseError(f"unexpected {type(error).__name__}: {one_line(error)}")
        emit({"error": [type(found).__name__, f"{shard.loading.get('device')}: {found}"]})


def _encoded(
    shard: Shard, emit: Callable[[dict[str, Any]], None], begin: Callable[[], None] | None
) -> dict[str, Any]:  # fmt: skip
    from pyserini_llm_sparse.encoder import SparseEncoder
    from pyserini_llm_sparse.indexing.vectors.encode import encode_corpus

    encoder = SparseEncoder.load(shard.encoder, **shard.loading)
    # What is said while a model is found, the parent has said.
    logging.getLogger(LOGGER).addHandler(_Notes(emit))
    report = encode_corpus(
        encoder, progress=lambda number, now: emit({"progress": [number, now]}), others=False, begin=begin,
        **shard.encoding,
    )  # fmt: skip
    return asdict(report)


class _Notes(logging.Handler):
    """Sends the package's log as notes."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._emit_event = emit

    def emit(self, record: logging.LogRecord) -> None:
        self._emit_event({"note": self.format(record)})


def _events() -> Callable[[dict[str, Any]], None]:
    """Return what sends an event; from here on, whatever else is printed goes to standard error."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            stream.write(orjson.dumps(event, default=str) + b"\n")
            stream.flush()

    return emit


if __name__ == "__main__":
    main()
