"""The command that compares a Lucene index with what it was made of, for Pyserini's indexer loses documents in silence.

python -m pyserini_llm_sparse.regressions.run.checking --index INDEX --vectors FOLDER
python -m pyserini_llm_sparse.regressions.run.checking --index INDEX --texts DOCUMENTS.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyserini_llm_sparse.errors import RunError, explained
from pyserini_llm_sparse.indexing.lucene.bm25 import BM25Index
from pyserini_llm_sparse.indexing.lucene.building import verify
from pyserini_llm_sparse.plugin import register


def require_texts(texts: Path, index: Path) -> None:
    """Require that an index holds as many documents as there are lines of texts.

    Raises:
        RunError: It does not.
    """
    with texts.open("rb") as lines, BM25Index(index) as opened:
        count = sum(1 for _ in lines)
        if len(opened) != count:
            raise RunError(f"{index}: holds {len(opened):,} of {count:,} documents; index them again")


def main() -> None:
    """Compare, and end with one line if something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--vectors", type=Path, help="folder that pyserini.encode wrote")
    given.add_argument("--texts", type=Path, help="documents as JSON lines")
    arguments = parser.parse_args()
    register()  # a command of its own, also where the start-up hook did not run
    try:
        if arguments.texts is not None:
            require_texts(arguments.texts, arguments.index)
        else:
            verify(arguments.vectors, arguments.index)
    except Exception as error:
        if (found := explained(error)) is None:
            raise
        sys.exit(str(found))


if __name__ == "__main__":
    main()
