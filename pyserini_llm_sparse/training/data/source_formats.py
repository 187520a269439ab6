"""One record of a training file as an `Example`: the JSON forms and the tab-separated forms that the field uses.

JSON objects (and rows of hub datasets), told apart by their keys:

* Tevatron: ``query``, ``positive_passages`` and ``negative_passages``, lists of ``docid``, ``title``, ``text`` and,
  where a teacher was asked, ``score``; or, newer, ``query_text``, ``positive_document_ids``, ``negative_document_ids``.
* sentence-transformers: ``anchor`` (``query``, ``question``), ``positive`` (``answer``), ``negative``, ``negative_1``,
  .. or ``negatives`` as a list; a teacher's ``scores`` (``score``, ``label``, ``labels``) as a list, positive first, or
  as margins, one for each negative.
* Pairs: ``query``, ``positive`` and, joined before it, ``title``; or ``query`` and ``pos``, the id of a passage.
* FlagEmbedding: ``query``, ``pos`` and ``neg`` as lists, ``pos_scores``, ``neg_scores``.
* MS MARCO hard negatives: ``qid``, ``pos`` and ``neg``, lists of ids, ``neg`` also by the system that found them.

Lines of fields separated by tabs: query, positive and, in a triple, negative; all three may be ids; two scores may
stand first (positive's, negative's), as in the files of Hofstätter et al. (2020).

Whole numbers in the place of a text are ids. Ids are looked up in the collection and queries beside the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pyserini_llm_sparse.files.records import RecordProblem, excerpt, has_surrogate
from pyserini_llm_sparse.training.data.examples import Example
from pyserini_llm_sparse.training.data.texts_by_id import Neighbours

QUERY_KEYS = ("query", "anchor", "question", "query_text")
QUERY_ID_KEYS = ("query_id", "qid")
POSITIVE_KEYS = ("positive_passages", "positives", "positive", "pos", "answer", "positive_document_ids")
NEGATIVE_KEYS = ("negative_passages", "negatives", "negative", "neg", "negative_document_ids")
SCORE_KEYS = ("scores", "score", "labels", "label")
POSITIVE_SCORE_KEYS = ("positive_scores", "pos_scores")
NEGATIVE_SCORE_KEYS = ("negative_scores", "neg_scores")
_COLUMNS = frozenset(
    (*QUERY_KEYS, *QUERY_ID_KEYS, *POSITIVE_KEYS, *NEGATIVE_KEYS, *SCORE_KEYS, "pid", "docid", "doc_id", "corpus_id",
     "pos_id", "neg_id", "pos_pid", "neg_pid", "positive_id", "negative_id", "passage", "document", "text", "title",
     "positive_score", "negative_score", "sentence1", "sentence2")
)  # fmt: skip
_NUMBERED_NEGATIVE = re.compile(r"negative_(\d+)")


class Passage(NamedTuple):
    """A document of an example, with what the record says of it."""

    text: str
    id: str | None = None
    score: float | None = None


def is_example(record: Mapping[str, Any]) -> bool:
    """Tell whether a JSON object is a training example rather than, say, a document."""
    has_query = any(record.get(key) is not None for key in (*QUERY_KEYS, "qid"))
    return has_query and any(key in record for key in POSITIVE_KEYS)


def without_negatives(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a JSON object without the negatives of its example, and without the scores that go with them."""
    negatives = {*NEGATIVE_KEYS, *_numbered(record)} & record.keys()
    left_out = {*negatives, *NEGATIVE_SCORE_KEYS, *SCORE_KEYS} if negatives else set()
    return {key: value for key, value in record.items() if key not in left_out}


def example_of_record(record: Mapping[str, Any], neighbours: Neighbours, source: str, line: int) -> Example:
    """Return the example that a JSON object holds.

    Raises:
        RecordProblem: It holds none, or one that cannot be used.
        ResourceError: It names texts by id, and there is no file to look them up in.
    """
    by_id = _names_ids(record)
    positives = _passages(record, POSITIVE_KEYS, "positive", by_id, neighbours)
    if not positives:
        raise RecordProblem("no positive", f"none of {', '.join(POSITIVE_KEYS)} holds a document", "add one")
    title = record.get("title")
    if isinstance(title, str) and title.strip():
        positives = [passage._replace(text=f"{title.strip()} {passage.text}") for passage in positives]
    negatives = _passages(record, (*NEGATIVE_KEYS, *_numbered(record)), "negative", by_id, neighbours)
    if by_id:
        relevant = {passage.id for passage in positives}
        unique = {passage.id: passage for passage in negatives if passage.id not in relevant}
        negatives = list(unique.values())
    positives, negatives = _scored(record, positives, negatives)
    query_id = next((record[key] for key in QUERY_ID_KEYS if record.get(key) not in (None, "")), None)
    return Example(
        query=_query(record, neighbours),
        positives=tuple(passage.text for passage in positives),
        negatives=tuple(passage.text for passage in negatives),
        positive_scores=_all_scores(positives),
        negative_scores=_all_scores(negatives),
        query_id=None if query_id is None else str(query_id),
        positive_ids=_all_ids(positives),
        negative_ids=_all_ids(negatives),
        source=source,
        line=line,
    )


def example_of_fields(fields: list[str], neighbours: Neighbours, by_id: bool, source: str, line: int) -> Example:
    """Return the example of a line of tab-separated fields.

    Args:
        fields: Query, positive and perhaps negative; or two scores and these three.
        neighbours: Where ids are looked up.
        by_id: Whether the fields are ids.
        source: The file.
        line: Its line, from 1.

    Raises:
        RecordProblem: It has another number of fields, or a text or a score that cannot be used.
        ResourceError: It has ids, and there is no file to look them up in.
    """
    scores: list[float] = []
    if line == 1 and is_header(fields):
        raise RecordProblem("a header", "it names columns and is no example", "remove the line")
    if len(fields) == 5:
        scores, fields = [_number(field) for field in fields[:2]], fields[2:]
    if len(fields) not in (2, 3):
        raise RecordProblem(
            f"{len(fields)} fields between tabs", "a line is query, positive and perhaps negative, after two scores or "
            "none", "correct the line",
        )  # fmt: skip
    query, *documents = fields
    texts = [checked(neighbours.document(name) if by_id else name, "document") for name in documents]
    ids = tuple(documents) if by_id else ()
    return Example(
        query=checked(neighbours.query(query) if by_id else query, "query"),
        positives=(texts[0],),
        negatives=tuple(texts[1:]),
        positive_scores=tuple(scores[:1]),
        negative_scores=tuple(scores[1:]),
        query_id=query if by_id else None,
        positive_ids=ids[:1],
        negative_ids=ids[1:],
        source=source,
        line=line,
    )


def is_header(fields: list[str]) -> bool:
    """Tell whether the fields of a first line name columns: words of which at least two are customary names."""
    names = [field.strip().strip('"').lstrip("#").lower().replace("-", "_") for field in fields]
    return len(names) > 1 and sum(name in _COLUMNS for name in names) > 1 and all(map(str.isidentifier, names))


def checked(text: Any, what: str) -> str:
    """Return a text without outer white space.

    Raises:
        RecordProblem: It is no text, has no content, or is not well-formed Unicode.
    """
    if not isinstance(text, str):
        raise RecordProblem(f"{what} is not text", f"it is {_kind(text)}", "write it as a string")
    text = text.strip()
    if not text:
        raise RecordProblem(f"empty {what}", "nothing can be learned from a text without content", "fill or remove it")
    if has_surrogate(text):
        raise RecordProblem(f"lone surrogate in the {what}", "it is not Unicode", "clean the text")
    return text


def _names_ids(record: Mapping[str, Any]) -> bool:
    """Tell whether documents are ids: in MS MARCO's ``qid``, ``pos``, ``neg``, or in ``query`` with one ``pos``."""
    if record.get("positive_document_ids") is not None:
        return True
    return record.get("pos") is not None and ("query" not in record or isinstance(record["pos"], str))


def _query(record: Mapping[str, Any], neighbours: Neighbours) -> str:
    for key in QUERY_KEYS:
        if (value := record.get(key)) is not None:
            return checked(neighbours.query(value) if _is_integer(value) else value, "query")
    if record.get("qid") is not None:
        return checked(neighbours.query(record["qid"]), "query")
    raise RecordProblem("no query", f"none of {', '.join(QUERY_KEYS)} is a key of the record", "add one")


def _numbered(record: Mapping[str, Any]) -> list[str]:
    """Return the keys ``negative_1`` .. in the order of their numbers."""
    found = [match for key in record if (match := _NUMBERED_NEGATIVE.fullmatch(str(key)))]
    return [match.group() for match in sorted(found, key=lambda match: int(match.group(1)))]


def _passages(
    record: Mapping[str, Any], keys: Iterable[str], what: str, by_id: bool, neighbours: Neighbours
) -> list[Passage]:
    """Return the documents under some keys, each of which may hold one or a list of them."""
    passages: list[Passage] = []
    for key in keys:
        value = record.get(key)
        if isinstance(value, dict) and value and all(isinstance(found, list) for found in value.values()):
            value = [one for system in value.values() for one in system]  # by the system that found them
        for one in value if isinstance(value, list | tuple) else [value]:
            if one is not None:
                passages.append(_passage(one, what, by_id, neighbours))
    return passages


def _passage(value: Any, what: str, by_id: bool, neighbours: Neighbours) -> Passage:
    if isinstance(value, dict):
        if not isinstance(value.get("text"), str):
            raise RecordProblem(f"{what} without text", f"its text is {_kind(value.get('text'))}", "add the text")
        title = value.get("title") or ""
        if not isinstance(title, str):
            raise RecordProblem(f"title of a {what} is not text", f"it is {_kind(title)}", "write it as a string")
        identifier, score = value.get("docid"), value.get("score")
        return Passage(
            checked(f"{title.strip()} {value['text'].strip()}", what),
            None if identifier in (None, "") else str(identifier),
            None if score is None else _number(score),
        )
    if by_id or _is_integer(value):
        if not isinstance(value, str) and not _is_integer(value):
            raise RecordProblem(f"id of a {what} is {_kind(value)}", "it should be text or a number", "correct it")
        return Passage(checked(neighbours.document(value), what), str(value))
    return Passage(checked(value, what))


def _scored(
    record: Mapping[str, Any], positives: list[Passage], negatives: list[Passage]
) -> tuple[list[Passage], list[Passage]]:
    """Give documents the scores that a record holds in lists of their own.

    One number is a negative's margin (positive's score less negative's); a list is all scores, positives first, or
    the margins of the negatives. A margin m becomes the scores 0 and -m, which is the same to MarginMSE and to KL.
    """
    for key in (key for key in POSITIVE_SCORE_KEYS if record.get(key)):
        positives = _with_scores(positives, _numbers(record[key]), key)
    for key in (key for key in NEGATIVE_SCORE_KEYS if record.get(key)):
        negatives = _with_scores(negatives, _numbers(record[key]), key)
    key = next((key for key in SCORE_KEYS if record.get(key) is not None), "")
    if not key:
        return positives, negatives
    if not negatives and key in ("label", "labels") and record[key] in (0, 1):
        if record[key] == 0:
            raise RecordProblem(f"{key} is 0", "the pair is not relevant", "leave out pairs that are no positives")
        return positives, negatives
    scores = _numbers(record[key])
    if len(positives) == 1 and negatives and len(scores) == len(negatives):
        return _with_scores(positives, [0.0], key), _with_scores(negatives, _negated(scores), key)
    both = _with_scores(positives + negatives, scores, key)
    return both[: len(positives)], both[len(positives) :]


def _with_scores(passages: list[Passage], scores: list[float | None], key: str) -> list[Passage]:
    if len(scores) != len(passages):
        raise RecordProblem(
            f"{len(scores)} {key} for {len(passages)} documents", "they belong together one to one", "correct the line"
        )
    return [passage._replace(score=score) for passage, score in zip(passages, scores, strict=True)]


def _all_scores(passages: list[Passage]) -> tuple[float, ...]:
    """Return the scores, not a number for a document that has none; none at all if no document has one."""
    if all(passage.score is None for passage in passages):
        return ()
    return tuple(math.nan if passage.score is None else passage.score for passage in passages)


def _all_ids(passages: list[Passage]) -> tuple[str, ...]:
    """Return the ids, if all documents have one."""
    ids = [passage.id for passage in passages if passage.id is not None]
    return tuple(ids) if len(ids) == len(passages) else ()


def _numbers(value: Any) -> list[float | None]:
    """Return scores, None where one is missing."""
    listed = value if isinstance(value, list | tuple) else [value]
    return [None if score is None else _number(score) for score in listed]


def _negated(margins: list[float | None]) -> list[float | None]:
    return [None if margin is None else -margin for margin in margins]


def _number(value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None or number != number or number in (float("inf"), float("-inf")):
        raise RecordProblem("a score is no number", f"it is {excerpt(repr(value))}", "correct or remove it")
    return number


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
