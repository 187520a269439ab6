"""``explain``: what a text expands to, and which shared terms made a document's score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import count, print_json, without_java_warnings
from pyserini_llm_sparse.errors import RunError, UsageError
from pyserini_llm_sparse.modelling.names import KEYWORD, parse_encoder_name
from pyserini_llm_sparse.modelling.spec import Side

NAME = "explain"
HELP = """Show a text's terms, or those behind a score.

The contributions of the shared terms add up to Lucene's score exactly.
"""
EXAMPLES = (
    'explain --text "How do vaccines work?" --side query',
    'explain --index index --query "How do vaccines work?" --docid doc17',
)

BAR = 24
EXACT_FLOAT = 2**24


def command(
    text: Annotated[str | None, typer.Option(help="A text whose terms are shown.")] = None,
    side: Annotated[Side, typer.Option(help="Encode the text as a query or as a document.")] = "document",
    index: Annotated[Path | None, typer.Option(help="Folder of the index that holds the document.")] = None,
    query: Annotated[str | None, typer.Option(help="The query that found the document.")] = None,
    docid: Annotated[str | None, typer.Option(help="Id of the document.")] = None,
    encoder: options.Encoder = KEYWORD,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="List at most N terms in each part.")] = 20,
    device: options.Device = None,
    dtype: options.DType = None,
    precision: options.Precision = None,
    as_json: options.Json = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.indexing.lucene import require_index_spec

    for_score = (index, query, docid)
    if text is not None and for_score == (None, None, None):
        loaded = options.load_encoder(encoder, device, dtype, None, precision=precision)
        _explain_text(loaded, text, side, top, as_json)
    elif text is None and index is not None and query is not None and docid is not None:
        loaded = options.load_encoder(encoder, device, dtype, None, precision=precision)
        require_index_spec(index, loaded.spec, encoder, parse_encoder_name(encoder).overrides)
        _explain_score(loaded, index, query, docid, top, as_json)
    else:
        raise UsageError("explain: give either --text, or all of --index, --query and --docid; --help has examples")


def _explain_text(encoder: Any, text: str, side: Side, top: int, as_json: bool) -> None:
    found = encoder.term_impacts(text, side)
    own, expansions = [entry for entry in found if entry.own], [entry for entry in found if not entry.own]
    if as_json:
        print_json({
            "text": text, "side": side, "own": {entry.term: entry.impact for entry in own},
            "expansions": {entry.term: entry.impact for entry in expansions},
        })  # fmt: skip
        return
    typer.echo(f"{count(len(found), 'term')} as a {side}: {len(own)} of the text's own, {len(expansions)} added")
    largest = found[0].impact if found else 1
    for title, entries in (("The text's own terms", own), ("Expansions", expansions)):
        if entries:
            typer.echo(f"\n{title}")
            _print_bars([(entry.term, f"{entry.impact}", entry.impact / largest) for entry in entries], top)


def _explain_score(encoder: Any, index: Path, query: str, docid: str, top: int, as_json: bool) -> None:
    from pyserini_llm_sparse.indexing.lucene import LuceneIndex

    impacts = encoder.query_impacts([query])[0]
    with without_java_warnings(), LuceneIndex(index) as opened:
        contributions = opened.explain(impacts, docid)
        lucene = opened.lucene_score(impacts, docid)
    total = sum(contribution.score for contribution in contributions)
    if total != lucene and total < EXACT_FLOAT:
        raise RunError(f"{index}: {docid}: the terms add up to {total}, Lucene says {lucene}; report this")
    own = {entry.term for entry in encoder.term_impacts(query, "query") if entry.own}
    if as_json:
        print_json({
            "query": query, "docid": docid, "score": total, "lucene_score": lucene, "query_terms": len(impacts),
            "contributions": [
                {"term": each.term, "query": each.query_impact, "document": each.document_impact, "score": each.score,
                 "own": each.term in own}
                for each in contributions
            ],
        })  # fmt: skip
        return
    typer.echo(f"{docid} shares {len(contributions)} of the query's {count(len(impacts), 'term')}; + marks expansions")
    typer.echo()
    rows = [
        (
            f"{' ' if each.term in own else '+'} {each.term}",
            f"{each.query_impact} x {each.document_impact} = {each.score:,}",
            each.score / total,
        )
        for each in contributions
    ]
    _print_bars(rows, top, share=True)
    rest = sum(each.score for each in contributions[top:])
    if rest:
        typer.echo(f"  and {rest:,} from the others")
    exact = "" if total == lucene else ", which is rounded: floats are exact to 16,777,216"
    typer.echo(f"\n  sum {total:,}; Lucene's score {lucene:,.0f}{exact}")


def _print_bars(rows: Sequence[tuple[str, str, float]], top: int, share: bool = False) -> None:
    """Print rows of name, value and a bar for a fraction; say how many more there are."""
    shown = rows[:top]
    names = max((len(name) for name, _, _ in shown), default=0)
    values = max((len(value) for _, value, _ in shown), default=0)
    largest = max((fraction for _, _, fraction in shown), default=1.0) if share else 1.0
    for name, value, fraction in shown:
        bar = "█" * max(1, round(BAR * fraction / largest))
        percent = f" {fraction:6.1%}" if share else ""
        typer.echo(f"  {name:<{names}}  {value:>{values}}{percent}  {bar}")
    if len(rows) > top:
        typer.echo(f"  ... {len(rows) - top} more; --top shows more of them")
