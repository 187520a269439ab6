"""Notes about records that are read otherwise than one may think: each is told once, with how many records it is of."""

from __future__ import annotations

import logging
from collections import Counter

_logger = logging.getLogger(__name__)


class Notes:
    """What was noticed while a source was read."""

    def __init__(self, source: object) -> None:
        """Begin with nothing.

        Args:
            source: The file or corpus, for the messages.
        """
        self._source = source
        self._counts: Counter[str] = Counter()

    def add(self, what: str) -> None:
        """Count one more record of a kind."""
        self._counts[what] += 1

    def tell(self) -> None:
        """Warn of each kind, with its number of records, and begin again."""
        for what, count in self._counts.items():
            _logger.warning("%s: %d record%s %s", self._source, count, " has" if count == 1 else "s have", what)
        self._counts.clear()
