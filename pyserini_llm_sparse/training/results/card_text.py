"""Values as text of a Markdown page, shown as they are whatever they hold."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup


def shown(value: Any) -> str:
    """Return a value as a cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        shown = ", ".join(map(str, value[:8]))
        return f"{shown}, ... ({len(value)} in all)" if len(value) > 8 else shown or "none"
    # Blanks at the ends and line breaks, which a prefix may have, would not be seen.
    return code(repr(value)) if value != " ".join(value.split()) or not value else str(value)


def escaped(value: Any) -> Markup:
    """Return a text that Markdown shows as it is, in a line or in a cell of a table.

    >>> print(escaped("a|b, *c* and document_top_k"))
    a&#124;b, &#42;c&#42; and document_top_k
    """
    if isinstance(value, Markup):
        return value
    line = re.sub(r"\s*[\r\n]+\s*", " ", str(value))
    return Markup(re.sub(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])", _entity, line))


def code(text: str) -> Markup:
    """Return a text as code, in a line or in a cell of a table.

    >>> print(code("pairs.jsonl"), code("a|b"))
    `pairs.jsonl` <code>a&#124;b</code>
    """
    if re.search(r"[`|\\\r\n]", text) is None:
        return Markup(f"`{text}`" if text else "")
    return Markup("<code>" + re.sub(r"[^\w\s]|_|[\r\n]", _entity, text) + "</code>")


def _entity(found: re.Match[str]) -> str:
    return f"&#{ord(found.group())};"
