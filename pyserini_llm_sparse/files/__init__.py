"""Readers of corpora and topics and atomic writers of vectors, queries and runs: no model, no Java."""

from __future__ import annotations
