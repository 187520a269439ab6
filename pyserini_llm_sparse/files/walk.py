"""The files below a folder, as Anserini's walk finds them: through links, hidden ones too, and nothing passed over."""

from __future__ import annotations

from pathlib import Path

from pyserini_llm_sparse.errors import DataError, ResourceError


def files_below(folder: Path, hidden: bool = True) -> list[Path]:
    """Return all files below a folder in the order of their paths; a linked folder is a folder.

    Args:
        folder: Where to look; one that is not there holds no files.
        hidden: Whether files and folders whose names begin with a dot, and ``_SUCCESS``, are among them.

    Raises:
        ResourceError: A folder cannot be read, or a link leads nowhere.
        DataError: A link leads back to a folder that it lies in, or something is neither a file nor a folder.
    """
    found: list[Path] = []
    if folder.is_dir():
        _walk(folder, hidden, (_identity(folder),), found)
    return sorted(found)


def is_file(path: Path) -> bool:
    """Tell whether a path can be read as a file: a regular one, a pipe or a device."""
    return path.exists() and not path.is_dir()


def _walk(folder: Path, hidden: bool, above: tuple[tuple[int, int], ...], found: list[Path]) -> None:
    for path in _entries(folder):
        if not hidden and path.name.startswith((".", "_SUCCESS")):
            continue
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            if (identity := _identity(path)) in above:
                raise DataError(
                    f"{path}: a link to a folder that it lies in: its files would be read without end; remove the link"
                )
            _walk(path, hidden, (*above, identity), found)
        elif path.exists():
            raise DataError(f"{path}: neither a file nor a folder: it cannot be read twice; move it out of the folder")
        else:
            raise ResourceError(
                f"{path}: a link that leads nowhere: its file would be missing; mend or remove the link"
            )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be read: {error.strerror or error}; check the folder") from error


def _identity(folder: Path) -> tuple[int, int]:
    """Return what tells a folder from others, by whatever name it is reached."""
    known = folder.stat()
    return known.st_dev, known.st_ino
