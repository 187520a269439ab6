"""Our readers beside Pyserini's and Anserini's: the same files, and no difference between them that is not told."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyserini_llm_sparse.errors import DataError, LlmSparseError
from pyserini_llm_sparse.files.corpus import read_corpus
from pyserini_llm_sparse.files.records import Document
from pyserini_llm_sparse.files.topics import read_topics
from pyserini_llm_sparse.files.trec import read_qrels, read_run
from pyserini_llm_sparse.indexing.lucene import jdk
from pyserini_llm_sparse.indexing.lucene.named import named_topics
from pyserini_llm_sparse.indexing.lucene.source import read_vectors

pytestmark = pytest.mark.end_to_end

REFUSED = "refused"
Pairs = list[tuple[str, Any]]
PAIR: Pairs = [("1", "a"), ("2", "b")]


class Case(NamedTuple):
    """A file, and what becomes of it.

    Attributes:
        content: Its bytes.
        ours: What we read of it.
        said: What we say of it: a part of a warning, of a rejected record or of the error.
        theirs: What the readers read that read something else without refusing the file.
    """

    content: bytes
    ours: Pairs = PAIR
    said: str = ""
    theirs: dict[str, Pairs] = {}  # noqa: RUF012


def check(case: Case, ours: Pairs, told: str, theirs: dict[str, Any]) -> None:
    """Each difference is in the table; where they read what we do not, or otherwise, we say so."""
    assert ours == case.ours
    assert case.said in told
    different = {reader: found for reader, found in theirs.items() if found not in (REFUSED, ours)}
    assert different == case.theirs
    for reader, found in different.items():
        assert case.said or all(one in ours for one in found), f"a difference from {reader} in silence"


@pytest.fixture(scope="module")
def java() -> Callable[[str], Any]:
    """The classes of the only JVM of this process."""
    jdk.use_jdk()
    from pyserini.pyclass import autoclass

    return autoclass  # type: ignore[no-any-return]


def attempt(read: Callable[[], Any]) -> Any:
    """What a reader of Pyserini or Anserini gives, `REFUSED` if it raises an error of any kind."""
    try:
        return read()
    except Exception:
        return REFUSED


def ours_of(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[Pairs, str]:
    """The documents that we read, and all that we say."""
    with caplog.at_level(logging.WARNING):
        try:
            records = list(read_corpus(path))
        except DataError as error:
            return [], str(error)
    read = [(record.id, record.text) for record in records if isinstance(record, Document)]
    rejected = [record.message() for record in records if not isinstance(record, Document)]
    return read, "\n".join([*caplog.messages, *rejected])


def pyserinis_documents(path: Path, fields: list[str]) -> Pairs:
    from pyserini.encode import JsonlCollectionIterator

    return [
        (identifier, " ".join(text for text in texts if text))
        for batch in JsonlCollectionIterator(str(path), fields)
        for identifier, *texts in zip(batch["id"], *(batch[field] for field in fields), strict=True)
    ]


def anserinis_documents(java: Callable[[str], Any], folder: Path, kind: str) -> Pairs:
    from jnius import cast

    segments = java(f"io.anserini.collection.{kind}")(java("java.nio.file.Paths").get(str(folder))).iterator()
    found = []
    while segments.hasNext():
        segment = cast("io.anserini.collection.FileSegment", segments.next())
        documents = segment.iterator()
        while documents.hasNext():
            document = cast("io.anserini.collection.SourceDocument", documents.next())
            found.append((document.id(), document.contents()))
        segment.close()
    return found


LINES = b'{"id": "1", "contents": "a"}\n{"id": "2", "contents": "b"}\n'
REST = b'{"id": "2", "contents": "b"}\n'
B: Pairs = [("2", "b")]


def both(first: object, text: str = "a") -> dict[str, Pairs]:
    """What both readers make of a first record that we refuse, with the second."""
    return {reader: [(str(first), text), *B] for reader in ("Pyserini", "Anserini")}


CORPORA = {
    "plain.jsonl": Case(LINES),
    "returns.jsonl": Case(LINES.replace(b"\n", b"\r\n")),
    "blank.jsonl": Case(LINES.replace(b"\n", b"\n\n")),
    "more.jsonl": Case(b'{"id": "1", "contents": "a", "year": 7, "tags": ["x"], "at": {"k": 1}}\n' + REST),
    "separators.jsonl": Case(
        '{"id": "1", "contents": "a\u2028b\x85c\u2029d"}\n'.encode() + REST, [("1", "a\u2028b\x85c\u2029d"), *B]
    ),
    "odd-ids.jsonl": Case(
        '{"id": "é/日?#:\\"", "contents": "a"}\n{"id": 2, "contents": "b"}\n'.encode(), [('é/日?#:"', "a"), *B]
    ),
    "key-twice.jsonl": Case(b'{"id": "1", "contents": "z", "contents": "a"}\n' + REST),
    "not-a-number.jsonl": Case(b'{"id": "1", "contents": "a", "x": NaN}\n' + REST),
    "other-id.jsonl": Case(b'{"_id": "1", "contents": "a"}\n{"docid": "2", "contents": "b"}\n'),
    "title.jsonl": Case(b'{"id": "1", "title": " T", "text": "a "}\n', [("1", "T a")]),
    "packed.jsonl.gz": Case(gzip.compress(LINES)),
    "array.json": Case(b"[" + LINES.replace(b"}\n{", b"},\n{") + b"]"),
    "array.jsonl": Case(b"[" + LINES.strip().replace(b"}\n{", b"}, {") + b"]"),
    # Anserini passes over these two without an error
    "mark.jsonl": Case(b"\xef\xbb\xbf" + LINES, theirs={"Anserini": []}),
    "columns.tsv": Case(b"1\ta\n2\tb\n", theirs={"Anserini": []}),
    # Of the others we say what they hold, and they read something
    "returns-alone.jsonl": Case(
        LINES.replace(b"}\n{", b"}\r{"), [], "returns-alone.jsonl:1: broken JSON",
        {"Pyserini": PAIR, "Anserini": PAIR},
    ),
    "one-line.jsonl": Case(LINES.replace(b"}\n{", b"} {"), [], "one-line.jsonl:1: broken JSON", {"Anserini": PAIR}),
    "object.json": Case(b'{\n "id": "1",\n "contents": "a"\n}\n', [], ".json:1: broken JSON", {"Anserini": PAIR[:1]}),
    "space.jsonl": Case(b'{"id": "a b", "contents": "a"}\n' + REST, B, ".jsonl:1: unusable id", both("a b")),
    "null.jsonl": Case(
        b'{"id": null, "contents": "a"}\n' + REST, B, ".jsonl:1: unusable id: id is null",
        {"Anserini": [("null", "a"), *B]},
    ),
    "float.jsonl": Case(b'{"id": 1.5, "contents": "a"}\n' + REST, B, "unusable id: id is float", both(1.5)),
    "empty.jsonl": Case(b'{"id": "1", "contents": ""}\n' + REST, B, ".jsonl:1: empty text (id '1')", both(1, "")),
    "nul.jsonl": Case(b'{"id": "1", "contents": "a\\u0000"}\n' + REST, B, ".jsonl:1: NUL character", both(1, "a\x00")),
    "surrogate.jsonl": Case(
        b'{"id": "1", "contents": "a\\ud800"}\n' + REST, B, ".jsonl:1: lone surrogate",
        {"Pyserini": [("1", "a\ud800"), *B]},
    ),
    "number.jsonl": Case(
        b'{"id": "1", "contents": 7}\n' + REST, B, ".jsonl:1: field contents is not text",
        {"Anserini": [("1", "7"), *B]},
    ),
    "latin.jsonl": Case(
        b'{"id": "1", "contents": "\xe9"}\n' + REST, B, ".jsonl:1: invalid UTF-8", {"Anserini": [("1", "\ufffd"), *B]}
    ),
    "page.html": Case(b"<p>a</p>\n", [], "page.html: not a file of records: .html is not read"),
    "lines.log": Case(LINES, theirs={"Anserini": []}),
    "broken.jsonl": Case(
        b'{"id": "1", "contents": "a"}\n{"id": "3", "cont\n' + REST, PAIR, "broken.jsonl:2: broken JSON"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
def test_corpora(name: str, java: Callable[[str], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = CORPORA[name]
    (tmp_path / name).write_bytes(case.content)
    fields = ["title", "text"] if name == "title.jsonl" else ["contents"]
    theirs = {
        "Pyserini": attempt(lambda: pyserinis_documents(tmp_path / name, fields)),
        "Anserini": attempt(lambda: anserinis_documents(java, tmp_path, "JsonCollection")),
    }
    check(case, *ours_of(tmp_path / name, caplog), theirs)


def test_a_folder(java: Callable[[str], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "folder"
    for name in ("folder/a.jsonl", "folder/sub/deep/b.json", "folder/.c.jsonl", "folder/.sub/d.jsonl", "e.jsonl",
                 "store/f.jsonl"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        letter = Path(name).stem.strip(".")
        (tmp_path / name).write_text(json.dumps({"id": letter, "contents": letter}), encoding="utf-8")
    (folder / "e.jsonl").symlink_to(tmp_path / "e.jsonl")
    (folder / "part").symlink_to(tmp_path / "store")
    (folder / ".DS_Store").write_bytes(b"\x00")
    read, told = ours_of(folder, caplog)
    theirs = anserinis_documents(java, folder, "JsonCollection")
    assert {name for name, _ in theirs} - {name for name, _ in read} == {"c", "d"}
    assert sorted(theirs) == sorted([*read, ("c", "c"), ("d", "d")])
    assert "2 files of records are not read, being hidden or beside corpus.jsonl: .c.jsonl, .sub/d.jsonl" in told
    # A file with another suffix is passed over by Anserini, and refused by us
    (folder / "g.xyz").write_text('{"id": "g", "contents": "g"}', encoding="utf-8")
    assert sorted(anserinis_documents(java, folder, "JsonCollection")) == sorted(theirs)
    read, told = ours_of(folder, caplog)
    assert not read
    assert "g.xyz: not a file of records" in told


TOPICS = {
    "t.tsv": Case(b"1\ta\n2\tb\n"),
    "t.txt": Case(b"1\ta\n2\tb\n"),
    "t.tsv.gz": Case(gzip.compress(b"1\ta\n2\tb\n")),
    "returns.tsv": Case(b"1\ta\r\n2\tb\r\n"),
    "words.tsv": Case(b"q1\ta\nq2\tb\n", [("q1", "a"), ("q2", "b")]),
    "separators.tsv": Case("1\ta\u2028b\x85c\n2\tb\n".encode(), [("1", "a\u2028b\x85c"), *B]),
    "quotes.tsv": Case(b'1\t"a"\n2\tb\n', [("1", '"a"'), *B]),
    "spaces.tsv": Case(b"1\t  a \n2\tb\n"),
    "mark.tsv": Case(b"\xef\xbb\xbf1\ta\n2\tb\n"),
    "blank.tsv": Case(b"1\ta\n\n2\tb\n"),
    "return-alone.tsv": Case(b"1\ta\rc\n2\tb\n", [("1", "a\rc"), *B]),
    "three.tsv": Case(b"1\ta\tmore\n2\tb\n", PAIR, "1 record has further columns"),
    "header.tsv": Case(
        b"qid\tquery\n2\tb\n", B, "header.tsv: the first line names columns (qid, query)",
        {"Pyserini": [*B, ("qid", "query")]},
    ),
    "columns.tsv": Case(
        b"qid\turl\tquery\n2\thttp://a\tb\n", B, "the first line names columns (qid, url, query)",
        {"Pyserini": [("2", "http://a"), ("qid", "url")]},
    ),
    "zeros.tsv": Case(
        b"01\ta\n2\tb\n", [("01", "a"), *B], "1 record has an id with leading zeros", {"Pyserini": PAIR}
    ),
    "space.tsv": Case(b"q 1\ta\n", [], "space.tsv:1: unusable id", {"Pyserini": [("q 1", "a")]}),
    "twice.tsv": Case(b"1\ta\n1\tb\n", [], "twice.tsv:2: duplicate id (id '1')", {"Pyserini": [("1", "b")]}),
    "latin.tsv": Case(b"1\t\xe9\n", [], "latin.tsv:1: invalid UTF-8", {"Pyserini": [("1", "\ufffd")]}),
    "empty.tsv": Case(b"1\t\n2\tb\n", [], "empty.tsv:1: empty text (id '1')"),
    "alone.tsv": Case(b"1\n", [], "alone.tsv:1: no tab in the line"),
    "t.jsonl": Case(b'{"id": "1", "title": "a"}\n{"id": 2, "title": "b"}\n'),
    "beir.jsonl": Case(b'{"_id": "1", "text": "a"}\n{"_id": "2", "text": "b"}\n'),
    "text.jsonl": Case(b'{"id": "1", "text": "x", "title": "a"}\n', PAIR[:1], "text beside title, which alone"),
    "lines.json": Case(b'{"id": "1", "title": "a"}\n{"id": "2", "title": "b"}\n'),
    "t.json": Case(b'{"1": {"title": "a"}, "2": {"title": "b"}}\n'),
    "object.json": Case(b'{\n "1": {"title": "a"},\n "2": {"title": "b"}\n}\n'),
    "mark.json": Case(b'\xef\xbb\xbf{"1": {"title": "a"}}\n', [], ".json: topics that Pyserini cannot read: Unex"),
    "t.trec": Case(
        b"<top>\n<num> Number: 1\n<title> a\n<desc> Description:\nlong\n<narr> Narrative:\nmore\n</top>\n\n"
        b"<top>\n<num> Number: 2\n<title>\nb\n<desc> Description:\nlong\n<narr> Narrative:\nmore\n</top>\n"
    ),
    "t.csv": Case(b"qid,query\n1,a\n2,b\n"),
    "array.json": Case(b'[{"id": "1", "title": "a"},\n{"id": "2", "title": "b"}]\n'),
    "t.xml": Case(b"<topics/>\n", [], "t.xml: not a file of records: .xml is not read"),
    "empty.trec": Case(b"", [], "empty.trec: topics that Pyserini cannot read"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOPICS)
@pytest.mark.usefixtures("java")
def test_topics(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from pyserini.query_iterator import DefaultQueryIterator

    case, path, told = TOPICS[name], tmp_path / name, ""
    path.write_bytes(case.content)
    ours: Pairs = []
    try:
        ours = sorted((topic.id, topic.text) for topic in read_topics(path, named_topics))
    except LlmSparseError as error:
        told = str(error)
    theirs = attempt(
        lambda: sorted((str(identifier), text) for identifier, text in DefaultQueryIterator.from_topics(str(path)))
    )
    check(case, ours, "\n".join([*caplog.messages, told]), {"Pyserini": theirs})


ONE: Pairs = [("1", {"a": 1})]
VECTORS = {
    "v.jsonl": Case(b'{"id": "1", "contents": "", "vector": {"a": 1}}\n', ONE),
    "returns.jsonl": Case(b'{"id": "1", "contents": "", "vector": {"a": 1}}\r\n\r\n', ONE),
    "float.jsonl": Case(b'{"id": "1", "contents": "", "vector": {"a": 1.9, "b": 0}}\n', ONE),
    "empty.jsonl": Case(b'{"id": "1", "vector": {}}\n', [("1", {})]),
    "packed.jsonl.gz": Case(gzip.compress(b'{"id": "1", "contents": "", "vector": {"a": 1}}\n'), ONE),
    "array.json": Case(b'[{"id": "1", "contents": "", "vector": {"a": 1}}\n]\n', ONE),
    "other.txt": Case(b'{"id": "1", "contents": "", "vector": {"a": 1}}\n', ONE),
    "packed.jsonl.zst": Case(b"\x28\xb5\x2f\xfd", [], "zst: not vectors that Lucene is given"),
    "mark.jsonl": Case(b'\xef\xbb\xbf{"id": "1", "vector": {"a": 1}}\n', [], "mark.jsonl:1: not a vector"),
    "other-id.jsonl": Case(b'{"_id": "1", "vector": {"a": 1}}\n', [], "other-id.jsonl:1: not a vector"),
    "none.jsonl": Case(b'{"id": "1", "contents": "x"}\n', [], "none.jsonl:1: not a vector"),
    "text.jsonl": Case(
        b'{"id": "1", "contents": "", "vector": {"a": "1"}}\n', [], "text.jsonl:1: not a vector", {"Anserini": ONE}
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str, java: Callable[[str], Any], tmp_path: Path) -> None:
    case, told = VECTORS[name], ""
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / name).write_bytes(case.content)

    def pairs(documents: Iterator[tuple[str, str]]) -> Pairs:
        """Impacts, of which Anserini writes each term as often as its impact says."""
        return [(one, {term: words.split().count(term) for term in words.split()}) for one, words in documents]

    theirs = attempt(lambda: pairs(iter(anserinis_documents(java, tmp_path / "v", "JsonVectorCollection"))))
    ours: Pairs = []
    try:
        found = read_vectors(tmp_path / "v")
    except LlmSparseError as error:
        told = str(error)
    else:  # how many impacts there are is all that we keep
        ours = case.ours
        assert found.documents == {one for one, _ in ours}
        assert found.empty == {one for one, impacts in ours if not impacts}
        assert found.postings == sum(len(impacts) for _, impacts in ours)
    check(case, ours, told, {"Anserini": theirs})


D: Pairs = [("q", {"d": 1})]
QRELS = {
    "spaces.txt": Case(b"q 0  d 1\n", D),
    "tabs.txt": Case(b"q\t0\td\t1\r\n", D),
    "beir.tsv": Case(b"query-id\tcorpus-id\tscore\nq\td\t1\n", D),
    "mark.txt": Case(b"\xef\xbb\xbfq 0 d 1\n", D),
    "blank.txt": Case(b"q 0 d 1\n\n", D),
    "float.txt": Case(b"q 0 d 1.0\n", D),
    "twice.txt": Case(b"q 0 d 2\nq 0 d 1\n", D),
    "half.txt": Case(b"q 0 d 0.5\n", [], "half.txt:1: not a judgement", {"Pyserini": [("q", {"d": 0.5})]}),
    "five.txt": Case(b"q 0 d 1 x\n", [], "five.txt:1: not a judgement"),
}


@pytest.mark.parametrize("name", QRELS)
@pytest.mark.usefixtures("java")
def test_judgements(name: str, tmp_path: Path) -> None:
    case, path, told = QRELS[name], tmp_path / name, ""
    path.write_bytes(case.content)
    ours: Pairs = []
    try:
        ours = list(read_qrels(path).items())
    except LlmSparseError as error:
        told = str(error)
    check(case, ours, told, {"Pyserini": attempt(lambda: pyserinis_judgements(path))})


def pyserinis_judgements(path: Path) -> Pairs:
    """Judgements as Pyserini's reader of TREC's files gives them."""
    from pyserini.trectools import Qrels

    found: dict[str, dict[str, float]] = {}
    judgements = Qrels(str(path)).qrels_data
    if judgements.isna().any(axis=None):
        raise ValueError(path)  # columns that it does not find
    for topic, _, document, grade in judgements.itertuples(index=False):
        found.setdefault(str(topic), {})[str(document)] = float(grade)
    return list(found.items())


RUNS = {
    "spaces.txt": Case(b"q Q0  d 1 2.5 t\n\nq Q0 e 2 1e-3 t\n", [("q", ("d", 1, 2.5)), ("q", ("e", 2, 0.001))]),
    "tabs.txt": Case(b"q\tQ0\td\t1\t2.5\tt\r\n", [("q", ("d", 1, 2.5))]),
    "mark.txt": Case(b"\xef\xbb\xbfq Q0 d 1 2.5 t\n", [("q", ("d", 1, 2.5))]),
    "five.txt": Case(
        b"q Q0 d 1 2.5\n", [], "five.txt:1: not a line of a run: it has 5", {"Pyserini": [("q", ("d", 1, 2.5))]}
    ),
    "words.txt": Case(b"q Q0 d first 2.5 t\n", [], "words.txt:1: not a line of a run: its rank 'first'"),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("java")
def test_runs(name: str, tmp_path: Path) -> None:
    from pyserini.trectools import TrecRun

    case, path, told = RUNS[name], tmp_path / name, ""
    path.write_bytes(case.content)
    ours: Pairs = []
    try:
        ours = [(one.query, (one.document, one.rank, one.score)) for one in read_run(path)]
    except LlmSparseError as error:
        told = str(error)
    theirs = attempt(
        lambda: [
            (query, (document, int(rank), float(score)))
            for query, _, document, rank, score, *_ in TrecRun(str(path)).run_data.itertuples(index=False)
        ]
    )
    check(case, ours, told, {"Pyserini": theirs})
