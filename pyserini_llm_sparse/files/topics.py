"""Topics of any form: TSV, JSONL, a BEIR folder, ``irds:`` ids, and names that the caller can look up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyserini_llm_sparse.errors import DataError, ResourceError
from pyserini_llm_sparse.files.corpus import IRDS, TSV_SUFFIXES, json_object, load_irds, parse_tsv
from pyserini_llm_sparse.files.irds import entry_text
from pyserini_llm_sparse.files.lines import COMPRESSIONS, bare_suffix, read_lines
from pyserini_llm_sparse.files.records import RecordProblem, checked_id, checked_text, record_id

ID_KEYS = ("id", "_id", "qid", "query_id")
TEXT_KEYS = ("text", "query", "title", "contents")


@dataclass(frozen=True, slots=True)
class Topic:
    """A query and its id."""

    id: str
    text: str


def read_topics(topics: str | Path, named: Callable[[str], Mapping[str, str]] | None = None) -> list[Topic]:
    """Return the topics of a file, a BEIR folder, ``irds:<dataset id>`` or a known name, in their order.

    A JSONL topic has its id under ``id``, ``_id``, ``qid`` or ``query_id``, and its text under the first of ``text``,
    ``query``, ``title`` and ``contents``.

    Args:
        topics: Where they are.
        named: Returns ``{id: text}`` for a name that is not a path, empty if it does not know it.

    Raises:
        ResourceError: There are no such topics.
        DataError: A topic has no usable id or text, or an id occurs twice.
        PrerequisiteError: ir_datasets is needed and not installed.
    """
    path = Path(topics)
    if str(topics).startswith(IRDS):
        found = [(f"{topics}:{n}", topic) for n, topic in enumerate(_irds_topics(str(topics)), 1)]
    elif path.is_file() or path.is_dir():
        found = list(_file_topics(topics_file(path)))
    else:
        known = named(str(topics)) if named else None
        if not known:
            raise ResourceError(f"{topics}: no such topics: neither a file, a folder nor a known name; check the path")
        found = [(str(topics), topic) for topic in _named_topics(str(topics), known)]
    if not found:
        raise DataError(f"{topics}: no topics: the file holds no records; check the path")
    seen: set[str] = set()
    for where, topic in found:
        if topic.id in seen:
            raise DataError(
                f"{where}: duplicate id (id {topic.id!r}): a run file would hold two rankings under one id; rename or "
                "remove one"
            )
        seen.add(topic.id)
    return [topic for _, topic in found]


def topics_file(path: Path) -> Path:
    """Return the file that holds the topics of a path: itself, or the queries of a BEIR folder.

    Raises:
        ResourceError: The folder has none.
    """
    if path.is_file():
        return path
    for suffix in ("", *COMPRESSIONS):
        if (beir := path / f"queries.jsonl{suffix}").is_file():
            return beir
    raise ResourceError(f"{path}: no topics in this folder: it has no queries.jsonl; name the topics file")


def _file_topics(path: Path) -> Iterator[tuple[str, Topic]]:
    """Yield each topic with its place; the first bad one is an error, for a run without it would mislead."""
    is_tsv = bare_suffix(path) in TSV_SUFFIXES
    for number, line in read_lines(path):
        if line is not None and (not line or line.isspace()):
            continue
        try:
            if line is None:
                raise RecordProblem("line too long", "a topic is a few words", "check the file")
            identifier, text = parse_tsv(line) if is_tsv else _parse_json(line)
        except RecordProblem as problem:
            raise problem.rejected(str(path), number).error() from problem
        yield f"{path}:{number}", Topic(identifier, text)


def _parse_json(line: bytes) -> tuple[str, str]:
    record = json_object(line)
    identifier = record_id(record, ID_KEYS)
    for key in TEXT_KEYS:
        if isinstance(record.get(key), str):
            return identifier, checked_text(record[key].strip(), identifier)
    raise RecordProblem(
        "no query text", f"none of {', '.join(TEXT_KEYS)} is a key with a string", "rename the field", identifier
    )


def _irds_topics(name: str) -> Iterator[Topic]:
    dataset = load_irds(name)
    if not dataset.has_queries():
        raise ResourceError(f"{name}: has no queries: the dataset holds other things; name a part with queries")
    for number, query in enumerate(dataset.queries_iter(), start=1):
        try:
            yield Topic(str(query.query_id), entry_text(query, None, str(query.query_id)))
        except RecordProblem as problem:
            raise problem.rejected(name, number).error() from problem


def _named_topics(name: str, known: Mapping[str, str]) -> Iterator[Topic]:
    for identifier, text in known.items():
        try:
            yield Topic(checked_id(identifier), checked_text(text.strip(), identifier))
        except RecordProblem as problem:
            raise problem.rejected(name, 1).error() from problem
