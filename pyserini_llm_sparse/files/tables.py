"""Records that are not a line each: CSV under a header, Parquet, and one JSON array."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, at, first_line
from pyserini_llm_sparse.files.lines import bare_suffix, open_bytes, read_lines

TABLE_SUFFIXES = (".csv", ".parquet")
MAXIMUM_ARRAY = 2**28  # bytes; an array is held in memory


def is_table(path: Path) -> bool:
    """Tell whether a file holds records that are not a line each, by its suffix or, for JSON, its first line."""
    if bare_suffix(path) in TABLE_SUFFIXES:
        return True
    return bare_suffix(path) in (".json", ".jsonl") and path.is_file() and _begins_array(path)


def read_table(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield number, from 1, and content of each record.

    Raises:
        ResourceError: The file cannot be read.
        DataError: It is damaged or not of the format that its suffix says.
        PrerequisiteError: It is Parquet, and pyarrow is not installed.
    """
    if bare_suffix(path) == ".csv":
        records = _csv_records(path)
    elif bare_suffix(path) == ".parquet":
        records = _parquet_records(path)
    else:
        records = _array_records(path)
    yield from enumerate(records, start=1)


def _begins_array(path: Path) -> bool:
    """Tell whether the first line that is not empty begins an array of objects, which may end on a later line."""
    for _, line in read_lines(path):
        if line and not line.isspace():
            try:
                return line.lstrip().startswith(b"[") and any(isinstance(one, dict) for one in json.loads(line))
            except ValueError:
                return line.lstrip().startswith((b"[{", b"[ {")) or line.strip() == b"["
    return False


def _array_records(path: Path) -> Iterator[Any]:
    lines, size = [], 0
    for number, line in read_lines(path):
        size += len(line or b"") if line is not None else MAXIMUM_ARRAY
        if size >= MAXIMUM_ARRAY:
            raise DataError(
                f"{at(path, number)}: a JSON array above {MAXIMUM_ARRAY >> 20} MiB: it does not fit in bounded memory; "
                "write an object a line (jq -c '.[]')"
            )
        lines.append(line or b"")
    try:
        yield from json.loads(b"\n".join(lines))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: broken JSON array: {first_line(error)}; correct it, or write an object a line"
        ) from error


def _csv_records(path: Path) -> Iterator[Any]:
    # The lines are checked as those of other formats are; a field in quotes may go on in the next line.
    text = (f"{(line or b'').decode('utf-8')}\n" for _, line in read_lines(path))
    reader = csv.DictReader(text, strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                raise DataError(
                    f"{at(path, reader.line_num)}: a different number of fields from the header: "
                    "which one is missing cannot be told; correct the line"
                )
            yield record
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{at(path, reader.line_num)}: broken CSV: {first_line(error)}; correct the line") from error


def _parquet_records(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise PrerequisiteError(
            f"{path}: cannot be read: pyarrow is not installed; pip install 'pyserini-llm-sparse[train]'"
        ) from error
    try:
        with open_bytes(path) as stream:
            source = stream if path.suffix.lower() == ".parquet" else io.BytesIO(stream.read())
            for batch in pyarrow.parquet.ParquetFile(source).iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: {first_line(error)}; download it again") from error
