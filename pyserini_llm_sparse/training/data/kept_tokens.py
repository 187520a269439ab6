"""Tokens of a corpus on disk: made once, and shared by the processes of a run, its resumes, and later runs.

An entry is a folder of the cache, which appears whole: ``ids.npy``, ``ends.npy`` and ``counts.json``. Its name is a
digest of what the tokens depend on. Processes map the files into memory, which they share.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from filelock import FileLock
from numpy.typing import NDArray

from pyserini_llm_sparse.files.atomic import atomic_folder, disk_errors
from pyserini_llm_sparse.files.cache import cache_folder
from pyserini_llm_sparse.files.work import LOCK
from pyserini_llm_sparse.modelling.fingerprint import tokenizer_content
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer

FORMAT = 1  # of an entry, and of how texts are cut into sequences
_IDS, _ENDS, _COUNTS = "ids.npy", "ends.npy", "counts.json"

_logger = logging.getLogger(__name__)


class Tokens(NamedTuple):
    """Token ids of sequences, one after the other.

    Attributes:
        ids: int32 ``[tokens]``.
        ends: int64 ``[sequences]``, where each ends in `ids`.
        counts: What was counted on the way, by name.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    counts: dict[str, int]


def entry_of(data: Sequence[Mapping[str, Any]], tokenizer: TextTokenizer, settings: Mapping[str, Any]) -> Path | None:
    """Return the folder of the tokens that a tokenizer makes of some data, None if the data cannot be recognised.

    Args:
        data: What is known of each file or hub dataset, see `sources.source_fingerprints`.
        tokenizer: The tokenizer.
        settings: What else the tokens depend on, in JSON's types.
    """
    facts = [{name: value for name, value in one.items() if name in ("sha256", "revision")} for one in data]
    if not facts or not all(any(one.values()) for one in facts):
        return None
    key = json.dumps([FORMAT, facts, dict(settings)], sort_keys=True).encode() + tokenizer_content(tokenizer)
    return cache_folder() / "tokens" / hashlib.sha256(key).hexdigest()[:32]


def kept_tokens(entry: Path | None, make: Callable[[], Tokens]) -> Tokens:
    """Return the tokens of an entry; those that are not there, or damaged, are made while other processes wait.

    Raises:
        LlmSparseError: As `make` says; or the disk is full.
    """
    if entry is None:
        return make()
    with disk_errors(entry):
        entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.parent / f"{entry.name}.{LOCK}"):
        if (found := _read(entry)) is None:
            made = make()
            _logger.info("%s: tokens kept for later runs, %.1f MB", entry, made.ids.nbytes / 1e6)
            with atomic_folder(entry) as folder:
                np.save(folder / _IDS, made.ids)
                np.save(folder / _ENDS, made.ends)
                (folder / _COUNTS).write_bytes(orjson.dumps(made.counts))
            found = _read(entry) or made
    return found


def _read(entry: Path) -> Tokens | None:
    """Return what is there, the ids mapped into memory; None if nothing is, or not all of it."""
    try:
        ids, ends = np.load(entry / _IDS, mmap_mode="r"), np.load(entry / _ENDS)
        counts = orjson.loads((entry / _COUNTS).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _logger.warning("%s: damaged: %s; the texts are tokenised again", entry, error)
        return None
    return Tokens(ids, ends, counts)
