"""``push``: a model directory to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyserini_llm_sparse.cli.console import count, say, still_at_work

NAME = "push"
HELP = """Upload a model directory with its card to the Hugging Face hub, in one commit.

What can run code when it is loaded is left out. The token is HF_TOKEN, or that of `hf auth login`.
"""
EXAMPLES = ("push runs/my-model me/my-model --private", "push runs/my-model me/my-model --dry-run")


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What `train` or `export` wrote.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where it goes; made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made now is private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Another branch than main.")] = None,
    no_training: Annotated[
        bool,
        typer.Option("--no-training", help="Leave out training/, which holds settings and paths of the training run."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files, and upload nothing.")] = False,
) -> None:
    """Carry out the command that `HELP` describes."""
    from pyserini_llm_sparse.modelling.publishing import files_to_publish, publish

    names, left_out = files_to_publish(folder, training=not no_training)
    size = sum((folder / name).stat().st_size for name in names)
    if left_out:
        say(f"{folder}: {count(len(left_out), 'file')} left out: {', '.join(left_out)}")
    if dry_run:
        typer.echo("\n".join(names))
        return
    with still_at_work(f"{repository}: uploading {count(len(names), 'file')}, {size / 1e6:,.1f} MB"):
        address = publish(folder, repository, private=private, revision=revision, training=not no_training)
    say(f"{repository}: {count(len(names), 'file')}, {size / 1e6:,.1f} MB: {address}")
