"""Rows of datasets of the Hugging Face hub, streamed, so that none is downloaded before training starts.

``hf:owner/name``, ``hf:owner/name:config``, ``hf:owner/name@split`` or ``hf:owner/name:config@split``; the split is
``train`` if none is named. A local folder in the place of the name is read as the `datasets` library reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyserini_llm_sparse.errors import PrerequisiteError, ResourceError, UsageError

_logger = logging.getLogger(__name__)

HUB = "hf:"


class HubName(NamedTuple):
    """A dataset of the hub, its configuration (None for the default) and its split."""

    name: str
    config: str | None
    split: str


def hub_name(source: str) -> HubName:
    """Take ``hf:owner/name[:config][@split]`` apart.

    Raises:
        UsageError: It has no name.
    """
    rest, _, split = source.removeprefix(HUB).partition("@")
    name, _, config = rest.partition(":")
    if not name:
        raise UsageError(f"{source}: no name: a hub dataset is hf:owner/name[:config][@split]; add it")
    return HubName(name, config or None, split or "train")


def read_hub(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(row number from 1, row)`` of a hub dataset.

    Raises:
        PrerequisiteError: The package `datasets` is not installed.
        ResourceError: There is no such dataset, configuration or split, or the hub cannot be reached.
    """
    wanted = hub_name(source)
    try:
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            f"{source}: cannot be read: the package datasets is not installed; pip install 'pyserini-llm-sparse[train]'"
        ) from error
    number = 0
    try:
        for number, row in enumerate(
            datasets.load_dataset(wanted.name, wanted.config, split=wanted.split, streaming=True), start=1
        ):
            yield number, dict(row)
    except Exception as error:  # of the hub's client, of its HTTP library, of pyarrow: they have no common base
        reason = " ".join(str(error).split())[:300]
        raise ResourceError(
            f"{source}: cannot be read after row {number}: {reason}; check name, configuration and split, and whether "
            "the hub can be reached (HF_TOKEN for a gated dataset)"
        ) from error


def hub_revision(source: str) -> str | None:
    """Return the commit that a hub dataset is read at; None for a local folder or where the hub does not say."""
    name = hub_name(source).name
    if Path(name).exists():
        return None
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name).sha
    except Exception as error:  # of the client and of its HTTP library: a result is not lost for want of a network
        _logger.warning("%s: the hub does not say its revision: %s", source, " ".join(str(error).split())[:300])
        return None
