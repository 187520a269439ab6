"""The command ``regress``: a recipe's run, its scores against those expected, and its report."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from pyserini_llm_sparse.cli import options
from pyserini_llm_sparse.cli.console import count, duration, print_json, say, status_line
from pyserini_llm_sparse.errors import PartialError, RunError, UsageError

NAME = "regress"
HELP = """Run a recipe and compare its scores with those expected.

Its systems run on test collections through Pyserini's commands. Nothing is done twice: a finished step is kept for as
long as its inputs are the same, and an interrupted run goes on. Exit code 6: a score is FAIL, or nothing could be run;
7: some systems could not be run, or parts of the report are missing.
"""
EXAMPLES = (
    "regress examples/regressions/demo.yaml",
    "regress examples/regressions/scifact.yaml --data beir --only bm25 --only csplade",
    "regress examples/regressions/scifact.yaml --data beir --dry-run",
)


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe (YAML).")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with the recipe's collections; by default the folder of the recipe.")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Folder for everything that is made, with a subfolder for each recipe.")
    ] = Path("build/regressions"),
    only: Annotated[
        list[str] | None, typer.Option(metavar="SYSTEM", help="Run this system and what it needs; may be repeated.")
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Threads for indexing and searching.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands without running them.")] = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Lay out the collections, and leave the commands of --dry-run to you.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.files.work import LOCK, held
    from pyserini_llm_sparse.regressions.recipe.fields import load_recipe
    from pyserini_llm_sparse.regressions.report.markdown import as_json, score_table
    from pyserini_llm_sparse.regressions.run.plan import plan_recipe
    from pyserini_llm_sparse.regressions.runner import PAGE, ordered, run_recipe, write_reports

    loaded = load_recipe(recipe)
    if unknown := [name for name in only or () if name not in loaded.systems]:
        raise UsageError(f"{recipe}: no system {unknown[0]}: it has {', '.join(loaded.systems)}; name one of them")
    folder = work / recipe.stem
    plans = plan_recipe(loaded, data or recipe.parent, folder, threads, only)
    steps = ordered(plans)
    if dry_run:
        data_option = ["--data", str(data)] if data else []
        chosen = [part for name in only or () for part in ("--only", name)]
        prepared = ["regress", str(recipe), *data_option, "--work", str(work), *chosen, "--prepare"]
        typer.echo(f"python -m pyserini_llm_sparse {shlex.join(prepared)}")
        for step in steps:
            if shown := step.shown():
                typer.echo(f"mkdir -p {shlex.quote(str(step.folder))} && {shown}")
        return
    if prepare:
        with held(folder, folder / f"regress.{LOCK}"):
            for step in steps:
                if step.work is not None and step.record() is None:
                    step.run()
        return
    with held(folder, folder / f"regress.{LOCK}"), status_line() as show:

        def note(text: str) -> None:
            show("")
            say(text)

        result = run_recipe(loaded, plans, note, show)
    writing = time.monotonic()
    write_reports(result, folder)
    took = time.monotonic() - writing
    result.seconds, result.own_seconds = result.seconds + took, result.own_seconds + took
    if json:
        print_json(as_json(result))
    else:
        for name, found in result.collections.items():
            typer.echo("\n".join([name, *score_table(result, found.scores), ""]))
        for name, scores in result.means.items():
            typer.echo("\n".join([f"{name} (mean)", *score_table(result, scores), ""]))
    say(
        f"{count(result.ran, 'step')} done now, {count(len(result.records) - result.ran, 'step')} before; "
        f"{duration(result.seconds)}, of which {duration(result.own_seconds)} outside of them; {folder / PAGE}"
    )
    if result.failed:
        raise RunError(f"{recipe}: not as expected: {'; '.join([*result.failed, *result.problems])}")
    if result.problems:
        kind = PartialError if any(found.scores for found in result.collections.values()) else RunError
        raise kind(f"{recipe}: {'; '.join(result.problems)}")
