"""The files of a source of training data: a single file, a BEIR directory with a split, or a directory of files."""

from __future__ import annotations

from pathlib import Path

from pyserini_llm_sparse.errors import ResourceError, UsageError
from pyserini_llm_sparse.files.folders import folder_files
from pyserini_llm_sparse.files.irds import IRDS
from pyserini_llm_sparse.files.lines import COMPRESSIONS
from pyserini_llm_sparse.files.walk import is_file
from pyserini_llm_sparse.training.data.hub import HUB
from pyserini_llm_sparse.training.data.texts_by_id import COLLECTION_NAMES, neighbour


def parts(source: str) -> list[str]:
    """Return the files of a directory as sources of their own; any other source is its only part.

    Raises:
        ResourceError: There is no such source.
        DataError: A file's suffix says that it is something else.
        UsageError: The source is of a kind that holds no examples.
    """
    if source.startswith(IRDS):
        raise UsageError(f"{source}: no training examples: ir_datasets are read as texts only; export them to a file")
    if source.startswith(HUB) or beir_split(source) is not None or is_file(Path(source)):
        return [source]
    if not Path(source).is_dir():
        raise ResourceError(f"{source}: no such file or directory; give a path or {HUB}owner/name")
    files = [str(path) for path in folder_files(Path(source)) if not is_neighbour(path)]
    if not files:
        raise ResourceError(f"{source}: no training examples: the directory holds no file of them; check the path")
    return files


def beir_split(source: str) -> tuple[Path, str] | None:
    """Return folder and split of a BEIR source; None if the source is something else."""
    path, mark, split = source.rpartition("#")
    if not mark or Path(source).exists():
        path, split = source, "train"
    folder = Path(path)
    if not (folder / "qrels").is_dir() or neighbour(folder, COLLECTION_NAMES) is None:
        return None
    return folder, split


def is_neighbour(path: Path) -> bool:
    """Tell whether a file is the collection or the queries that others refer to, or judgements."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return bare.name in COLLECTION_NAMES or bare.name.startswith(("queries.", "qrels")) or path.parent.name == "qrels"
