"""The command that puts dense vectors into Lucene's HNSW graph and searches it with one's own encoder.

    python -m pyserini_llm_sparse.regressions.run.dense_command index --vectors FAISS_FOLDER --index INDEX
    python -m pyserini_llm_sparse.regressions.run.dense_command search --index INDEX --encoder MODEL \\
        --topics TOPICS.tsv --output RUN.txt
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pyserini_llm_sparse.files.atomic import atomic_file
from pyserini_llm_sparse.files.topics import read_topics
from pyserini_llm_sparse.files.trec import run_lines
from pyserini_llm_sparse.indexing.lucene.dense import DenseIndex, index_vectors
from pyserini_llm_sparse.plugin import register

RUN_TAG = "lucene-hnsw"


def query_encoder(arguments: argparse.Namespace) -> Any:
    """Return Pyserini's encoder of queries for the options of a search."""
    from pyserini.encode import AutoQueryEncoder

    return AutoQueryEncoder(
        arguments.encoder, pooling=arguments.pooling, l2_norm=arguments.l2_norm, prefix=arguments.query_prefix
    )


def _search(arguments: argparse.Namespace) -> None:
    encoder = query_encoder(arguments)
    with DenseIndex(arguments.index) as opened, atomic_file(arguments.output) as stream:
        for topic in read_topics(arguments.topics):
            vector = encoder.encode(topic.text, max_length=arguments.max_length)
            stream.write(run_lines(topic.id, opened.search(vector, arguments.hits), RUN_TAG))


def main() -> None:
    """Index or search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("index")
    one.add_argument("--vectors", type=Path, required=True, help="folder that pyserini.encode --to-faiss wrote")
    one.add_argument("--index", type=Path, required=True)
    one.add_argument("--threads", type=int, default=1)
    other = commands.add_parser("search")
    for name in ("--index", "--topics", "--output"):
        other.add_argument(name, type=Path, required=True)
    other.add_argument("--encoder", required=True, help="path or hub id; an encoder with a pooling (Pyserini's auto)")
    other.add_argument("--pooling", default="cls")
    other.add_argument("--l2-norm", action="store_true")
    other.add_argument("--query-prefix")
    other.add_argument("--max-length", type=int)
    other.add_argument("--hits", type=int, default=1000)
    arguments = parser.parse_args()
    register()  # a command of its own, also where the start-up hook did not run
    if arguments.command == "index":
        index_vectors(arguments.vectors, arguments.index, arguments.threads)
    else:
        _search(arguments)


if __name__ == "__main__":
    main()
