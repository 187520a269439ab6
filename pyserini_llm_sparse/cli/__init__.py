"""The package's own commands, one small module each: they take arguments and print, the work is done elsewhere."""

from __future__ import annotations
