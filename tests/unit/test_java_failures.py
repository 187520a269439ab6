"""What Java prints is told by its exception and what that means, whatever stands around it."""

from __future__ import annotations

import pytest

from pyserini_llm_sparse.errors import DataError, LlmSparseError, PrerequisiteError, ResourceError, RunError
from pyserini_llm_sparse.indexing.lucene.failures import failure

TRACE = """2026-01-01 00:00:00,000 INFO  [main] index.AbstractIndexer (AbstractIndexer.java:208) - Setting log level
jnius.JavaException: JVM exception occurred: {exception}
{exception}
\tjava.base/sun.nio.fs.UnixPath.encode(UnixPath.java:131)
\tio.anserini.index.IndexCollection.main(IndexCollection.java:342)
"""


@pytest.mark.parametrize(
    ("exception", "kind", "meaning"),
    [
        ("java.nio.file.InvalidPathException: Malformed input: \u6570", ResourceError, "set LC_ALL=C.UTF-8"),
        ("java.io.IOException: No space left on device", ResourceError, "disk full; free some space"),
        ("org.apache.lucene.store.LockObtainFailedException: Lock held: /i/write.lock", RunError, "another process"),
        ("java.nio.file.AccessDeniedException: /i", ResourceError, "check who owns it"),
        ("java.lang.OutOfMemoryError: Java heap space", ResourceError, "give it more"),
        ("org.apache.lucene.index.CorruptIndexException: checksum failed", DataError, "index the vectors again"),
        ("org.apache.lucene.store.AlreadyClosedException: this IndexReader is closed", RunError, "open it again"),
        (
            "java.lang.IllegalArgumentException: Field [vector] vector's dimensions must be <= [1024]; got 1536",
            DataError,
            "use faiss",
        ),
        ("java.lang.NoSuchMethodError: 'void a.B.c()'", PrerequisiteError, "`doctor` tells"),
        ("java.io.IOException: Input/output error", ResourceError, "check the index, and the disk"),
        (
            "java.lang.IllegalStateException: nobody knows",
            RunError,
            "nobody knows: Java failed; PYSERINI_VERBOSE_JVM=1",
        ),
    ],
)
def test_a_failure_of_java_is_its_exception_and_a_remedy(
    exception: str, kind: type[LlmSparseError], meaning: str
) -> None:
    for printed in (TRACE.format(exception=exception), exception):
        told = failure("/i", "pyserini.index.lucene ended with exit code 1", printed)
        assert type(told) is kind
        assert str(told).startswith(f"/i: pyserini.index.lucene ended with exit code 1: {exception}")
        assert meaning in str(told)
        assert "IndexCollection.java" not in str(told)


def test_the_cause_is_told_where_another_exception_follows_it() -> None:
    printed = (
        "a.b.Logger (Logger.java:1) - java.io.IOException: No space left on device\n"
        "java.lang.RuntimeException: closed\n\tio.x.Y.main(Y.java:1)\n"
    )
    assert "java.io.IOException: No space left on device: disk full" in str(failure("/i", "wrote no index", printed))


def test_where_java_says_nothing_the_last_line_is_told() -> None:
    assert str(failure("/i", "wrote no index", "Traceback\nValueError: no folder\n")) == (
        "/i: wrote no index: ValueError: no folder"
    )
