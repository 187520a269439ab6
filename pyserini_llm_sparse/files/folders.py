"""The files of records in a folder: those that are read, in their order, and what is said of the others."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from pyserini_llm_sparse.errors import DataError, LlmSparseError, ResourceError
from pyserini_llm_sparse.files.irds import IRDS
from pyserini_llm_sparse.files.lines import COMPRESSIONS, bare_suffix
from pyserini_llm_sparse.files.tables import TABLE_SUFFIXES
from pyserini_llm_sparse.files.walk import files_below, is_file

_logger = logging.getLogger(__name__)

JSONL_SUFFIXES = (".jsonl", ".json")
TSV_SUFFIXES = (".tsv", ".txt")
SUFFIXES = (*JSONL_SUFFIXES, *TSV_SUFFIXES, *TABLE_SUFFIXES)


def corpus_files(corpus: str | Path) -> list[Path]:
    """Return the files of a corpus on disk, in the order in which they are read.

    Raises:
        ResourceError: There is nothing at the path, or no corpus file in the folder.
        DataError: The folder holds a file whose suffix says that it is something else.
    """
    corpus = Path(corpus)
    if is_file(corpus):
        return [corpus]
    if not corpus.is_dir():
        raise ResourceError(f"{corpus}: no such corpus: neither a file nor a folder; give a path or {IRDS}<dataset id>")
    for suffix in ("", *COMPRESSIONS):
        if (beir := corpus / f"corpus.jsonl{suffix}").is_file():
            return [beir]
    files = folder_files(corpus)
    if not files:
        raise ResourceError(f"{corpus}: no corpus in this folder: it holds no files; check the path")
    for path in files:
        if _is_beside_documents(path.relative_to(corpus)):
            raise DataError(
                f"{path}: queries or judgements by its name: they would be read as documents; name the corpus file "
                "itself, or move this one out of the folder"
            )
    return files


def folder_files(folder: Path) -> list[Path]:
    """Return the files of records below a folder, hidden ones left out, in the order in which they are read.

    Raises:
        ResourceError: A folder or a link cannot be read.
        DataError: There is a file whose suffix says that it is something else, or a folder in the BEIR layout.
    """
    files = files_below(folder, hidden=False)
    beir = sorted({str(path.parent) for path in files if path.name.partition(".jsonl")[0] == "corpus"} - {str(folder)})
    beside = {
        str(path.parent if path.parent.name != "qrels" else path.parent.parent)
        for path in files
        if _is_beside_documents(path.relative_to(folder))
    }
    if found := [name for name in beir if name in beside]:
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise DataError(
            f"{folder}: a folder above {len(found)} in the BEIR layout ({shown}): their queries and judgements would "
            "be read with the documents; name one of these folders"
        )
    for path in files:
        if bare_suffix(path) not in SUFFIXES:
            raise DataError(
                f"{path}: not a file of records: its suffix is none of {', '.join(SUFFIXES)} "
                f"(with {' or '.join(COMPRESSIONS)}); move it out of the folder or rename it"
            )
    return files


def tell_left_out(folder: Path) -> None:
    """Warn of what looks like a part of a corpus and is not read: hidden files, and others beside a BEIR corpus."""
    with contextlib.suppress(LlmSparseError):  # what cannot be walked through and is read is an error of `corpus_files`
        read = corpus_files(folder)
        left = [
            path.relative_to(folder).as_posix()
            for path in files_below(folder)
            if path not in read
            and bare_suffix(path) in SUFFIXES
            and bare_suffix(path) != ".txt"
            and not _is_beside_documents(path.relative_to(folder))
        ]
        if left:
            shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
            which = "1 file of records is" if len(left) == 1 else f"{len(left)} files of records are"
            _logger.warning("%s: %s not read, being hidden or beside corpus.jsonl: %s", folder, which, shown)


def _is_beside_documents(path: Path) -> bool:
    """Tell whether a file of a folder is queries or judgements, by the customary names."""
    return path.name.partition(".")[0] in ("queries", "topics", "qrels") or "qrels" in path.parent.parts
