"""The report as one HTML page that opens from disk: tables and plots are in it as they are, scripts add the queries.

Nothing is loaded from anywhere: the page's own content security policy forbids it, and allows its one style sheet and
its one script by their hashes. What comes from the collection is escaped by the templates, and inserted as text by the
script.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pyserini_llm_sparse.regressions.outcome.quantities import bytes_shown, seconds_shown
from pyserini_llm_sparse.regressions.report.comparison import baseline_mean, columns_of, findings_of, plots_of, signed
from pyserini_llm_sparse.regressions.report.page_data import PageData
from pyserini_llm_sparse.regressions.report.pictures import BAR, SHAPES, difference_profile, interval_strip, outcome_bar
from pyserini_llm_sparse.regressions.report.plots import shortened

_FUNCTIONS = (
    *(baseline_mean, columns_of, findings_of, plots_of, signed),
    *(difference_profile, interval_strip, outcome_bar, shortened),
)


def rendered(data: PageData) -> str:
    """Return the page of what it shows."""
    style, script = _asset("page.css"), _asset("page.js")
    page: str = templates().get_template("page.html").render(
        data=data, style=Markup(style), style_hash=_sha256(style), script=Markup(script), script_hash=_sha256(script),
        embedded=Markup(embedded(data)),
    )  # fmt: skip
    return page


def embedded(data: PageData) -> str:
    """Return data as JSON that no text in it can end: neither a closing tag nor a comment is left.

    >>> embedded({"title": "</script><!--"})
    '{"title":"\\\\u003c/script>\\\\u003c!--"}'
    """
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def templates() -> Environment:
    """Return the report's templates; every value in them is escaped."""
    found = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters.update(written=_written, bytes=bytes_shown, seconds=seconds_shown)
    found.globals.update({function.__name__: function for function in _FUNCTIONS}, shapes=SHAPES, bar_width=BAR)
    return found


def _asset(name: str) -> str:
    return (files("pyserini_llm_sparse.regressions.report") / "assets" / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _written(value: Any, how: str) -> str:
    return format(value, how)
