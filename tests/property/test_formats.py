"""Whatever text a corpus holds, it arrives unchanged or is rejected; nothing is lost on the way."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyserini_llm_sparse.errors import DataError
from pyserini_llm_sparse.files.corpus import parse_json, read_corpus
from pyserini_llm_sparse.files.duplicates import SeenIds
from pyserini_llm_sparse.files.records import Document, RecordProblem, Rejected
from pyserini_llm_sparse.files.topics import read_topics
from pyserini_llm_sparse.files.trec import Ranked, read_run
from pyserini_llm_sparse.files.vector_lines import pretokenized, vector_line
from pyserini_llm_sparse.indexing.vectors.windows import windows
from pyserini_llm_sparse.modelling.terms import escape

texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1).filter(
    lambda text: not text.isspace()
)
ids = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)
terms = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).map(escape)
impacts = st.dictionaries(terms, st.integers(1, 200), max_size=10)


@given(st.lists(st.tuples(ids, texts), max_size=8), st.booleans())
def test_json_lines_arrive_unchanged(records: list[tuple[str, str]], ascii_escapes: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.jsonl"
        lines = [json.dumps({"id": name, "contents": text}, ensure_ascii=ascii_escapes) for name, text in records]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
        found = [(record.id, record.text) for record in read_corpus(path) if isinstance(record, Document)]
    assert found == [(name, text.strip()) for name, text in records]


@given(st.lists(st.tuples(ids, texts), min_size=1, max_size=8, unique_by=lambda record: record[0]))
def test_topics_in_json_lines_arrive_unchanged(records: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.jsonl"
        path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in records))
        assert [(topic.id, topic.text) for topic in read_topics(path)] == [
            (name, text.strip()) for name, text in records
        ]


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_named_problem(line: bytes) -> None:
    try:
        identifier, text = parse_json(line)
    except RecordProblem as problem:
        assert problem.what
        assert problem.why
        assert problem.remedy
    else:
        assert identifier
        assert text.encode("utf-8")


@given(ids, impacts, st.none() | texts)
def test_a_vector_line_is_one_line_of_json_with_the_same_content(
    identifier: str, vector: dict[str, int], contents: str | None
) -> None:
    line = vector_line(identifier, vector, contents)
    assert line.count(b"\n") == 1
    record = json.loads(line)
    assert record.pop("contents", None) == contents
    assert record == {"id": identifier, "vector": vector}


@given(impacts)
def test_pretokenised_text_repeats_each_term_as_often_as_its_impact(vector: dict[str, int]) -> None:
    words = pretokenized(vector).split(" ") if vector else []
    assert {term: words.count(term) for term in words} == vector


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=3), max_size=6), max_size=12))
def test_repeated_ids_are_found_as_a_set_finds_them(batches: list[list[str]]) -> None:
    seen, expected = SeenIds(), set[str]()
    for batch in batches:
        found = seen.repeated(batch)
        for name, again in zip(batch, found, strict=True):
            assert again == (name in expected)
            expected.add(name)


@given(st.lists(st.tuples(ids, st.integers(1, 9)), max_size=30), st.integers(1, 7), st.integers(1, 30))
def test_windows_lose_no_record_and_keep_the_order(given: list[tuple[str, int]], size: int, characters: int) -> None:
    names = [name for name, _ in given]
    records = [Document(name, "t" * length, "c.jsonl", line) for line, (name, length) in enumerate(given, start=1)]
    cut = list(windows(records, size, characters))
    assert [window.index for window in cut] == list(range(len(cut)))
    first = 0
    for window in cut:
        group, first = records[first : first + len(window)], first + len(window)
        assert len(window) <= size
        assert sum(len(record.text) for record in group[:-1]) < characters
        full = len(window) == size or sum(len(record.text) for record in group) >= characters
        assert full or window is cut[-1]
    documents = [document for window in cut for document in window.documents]
    rejected: list[Rejected] = [record for window in cut for record in window.rejected]
    assert sorted(record.line for record in (*documents, *rejected)) == [record.line for record in records]
    assert [document.id for document in documents] == list(dict.fromkeys(names))


names = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=12)
ranked = st.builds(Ranked, names, names, st.integers(0, 10**6), st.floats(allow_nan=False, allow_infinity=False))


@given(st.lists(ranked, min_size=1, max_size=8), st.sampled_from([" ", "\t", "   "]), st.sampled_from(["\n", "\r\n\n"]))
def test_lines_of_a_run_arrive_unchanged(lines: list[Ranked], between: str, end: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.txt"
        rows = [between.join((one.query, "Q0", one.document, str(one.rank), repr(one.score), "tag")) for one in lines]
        path.write_text("".join(f"{row}{end}" for row in rows), encoding="utf-8", newline="")
        assert list(read_run(path)) == lines


@given(st.one_of(st.binary(max_size=80), st.lists(names, max_size=8).map(lambda words: " ".join(words).encode())))
def test_any_bytes_are_a_run_or_one_line_that_says_why_not(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.txt"
        path.write_bytes(content)
        try:
            assert list(read_run(path))
        except DataError as error:
            assert str(error).startswith(str(path)) and str(error).isprintable() and "; " in str(error)


MISSHAPEN = {
    "1 Q0 d1": "3 columns, not six",
    "1\td1\t1": "3 columns, not six",
    "1 Q0 d1 1 9.0": "5 columns, not six",
    "1 Q0 d1 1 9.0 my tag": "7 columns, not six",
    "1 Q0 d1 first 9.0 x": "its rank 'first' is not a whole number",
    "1 Q0 d1 1.0 9.0 x": "its rank '1.0' is not a whole number",
    f"1 Q0 d1 {'9' * 5000} 1 x": "its rank '99",
    "1 Q0 d1 -1 high x": "its score 'high' is not a finite number",
    "1 Q0 d1 1 nan x": "its score 'nan' is not a finite number",
    "1 Q0 d1 1 1e999 x": "its score '1e999' is not a finite number",
}


@given(st.lists(ranked, max_size=3), st.sampled_from(sorted(MISSHAPEN)))
def test_a_line_of_another_shape_is_named_with_what_is_wrong(before: list[Ranked], line: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.txt"
        rows = [f"{one.query} Q0 {one.document} {one.rank} {one.score!r} tag" for one in before]
        path.write_text("\n".join([*rows, line]), encoding="utf-8")
        with pytest.raises(DataError) as caught:
            list(read_run(path))
    told = str(caught.value)
    assert told.startswith(f"{path}:{len(rows) + 1}: not a line of a run: it") and len(told) < 400
    assert MISSHAPEN[line] in told
    assert told.endswith("; write query id, Q0, document id, rank, score and tag in each line")
