"""The text of a JSON record: which of its fields make it, and which are left out.

By default the text is the field ``contents`` or, where there is none, ``title`` and ``text``. A title alone is the text
only of a record that has nothing but its title: beside ``segment``, ``body``, ``abstract`` or any other field that may
be text, the caller has to say what is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyserini_llm_sparse.files.notes import Notes
from pyserini_llm_sparse.files.records import RecordProblem, excerpt

CONTENTS = ("contents",)
TITLE_AND_TEXT = ("title", "text")
# Fields that say something about a text and are none themselves; beside these a title may stand alone.
ABOUT_TEXTS = frozenset({
    "id", "_id", "docid", "doc_id", "pid", "did", "qid", "query_id", "url", "uri", "href", "link", "links",
    "doi", "isbn", "issn", "pmid", "pubmed_id", "date", "time", "timestamp", "year", "created", "created_at",
    "updated", "published", "published_date", "publication_date", "lang", "language", "author", "authors",
    "creator", "publisher", "journal", "venue", "source", "domain", "site", "website", "category",
    "categories", "tag", "tags", "keyword", "keywords", "subject", "subjects", "type", "format", "license",
    "version", "metadata", "meta", "score", "rank", "label", "labels", "cited_by", "references", "vector",
    "embedding", "path", "file", "filename", "bib", "wikidata_id"
})  # fmt: skip
# Fields that are texts by their names, and are missed if they are left out.
TEXTS = frozenset({
    "title", "text", "contents", "content", "body", "segment", "passage", "abstract", "paragraph", "sentence",
    "document", "article", "summary", "description", "headline", "headings", "full_text", "fulltext",
    "body_text", "main_text", "doc", "chunk", "snippet", "plain_text", "raw_text"
})  # fmt: skip


def joined_fields(record: dict[str, Any], fields: Sequence[str] | None, identifier: str) -> str:
    """Return the text of a JSON record: its fields stripped and joined by a space.

    Args:
        record: The record.
        fields: Names of the fields that make the text; None for ``contents``, else ``title`` and ``text``.
        identifier: The record's id, for messages.

    Raises:
        RecordProblem: It has none of the fields, one is not text, or a title stands for a text under another name.
    """
    wanted = fields or (CONTENTS if "contents" in record else TITLE_AND_TEXT)
    present = [name for name in wanted if name in record]
    if not present:
        raise RecordProblem(
            f"no field {' or '.join(fields or (*CONTENTS, *TITLE_AND_TEXT))}",
            f"the record has {', '.join(map(str, record))}",
            "name its fields with --fields",
            identifier,
        )
    if not fields and present == ["title"] and (others := _beside(record)):
        raise RecordProblem(
            f"title without text, beside {' and '.join(others)}",
            "it does not say which field is the text",
            f"name the fields, such as --fields title,{','.join(others)}, or --fields title for the title alone",
            identifier,
        )
    values = []
    for name in present:
        value = record[name]
        if value is None:
            continue
        if not isinstance(value, str):
            raise RecordProblem(
                f"field {name} is not text", f"it is a {type(value).__name__}", "write it as a string", identifier
            )
        values.append(value.strip())
    return " ".join(value for value in values if value)


def note_left_out(record: dict[str, Any], text: str, notes: Notes) -> None:
    """Note the fields of a record that are texts by their names and are not in the text that was made of it."""
    for name, value in record.items():
        if name in TEXTS and value and not (isinstance(value, str) and value.strip() in text):
            notes.add(f"a field {name} that is not in the text; name all fields with --fields if it should be")


def _beside(record: dict[str, Any]) -> list[str]:
    """Return the fields beside a title that may be its text, those that are texts by their names first."""
    found = [
        str(name)
        for name, value in record.items()
        if name != "title" and str(name).lower() not in ABOUT_TEXTS and _may_be_text(value)
    ]
    return [excerpt(name) for name in sorted(found, key=lambda name: name.lower() not in TEXTS)]


def _may_be_text(value: Any) -> bool:
    """Tell whether a value is a text with content, or holds others that may be texts."""
    return bool(value.strip()) if isinstance(value, str) else bool(value) and isinstance(value, dict | list | bytes)
