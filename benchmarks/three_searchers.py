"""Search the same vectors with Pyserini, with plain Anserini and by brute force, and compare every ranking.

    python benchmarks/three_searchers.py --work build/collections/scifact --anserini anserini-1.7.1-fatjar.jar

The folder is one that `beir_collections.py` left behind. Anserini gets the pre-encoded queries that
`python -m pyserini_llm_sparse encode-queries` writes; brute force is the integer dot product of the JSONL files.
Rankings must be identical up to ties: at each rank the same score, and at each score the same documents (documents that
tie at the last rank may be cut differently).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import defaultdict
from itertools import groupby
from pathlib import Path

Run = dict[str, list[tuple[str, float]]]


def read_run(path: Path) -> Run:
    """Read a TREC run, best first."""
    run: Run = defaultdict(list)
    for line in path.read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        run[query].append((document, float(score)))
    return run


def brute_force(vectors: Path, queries: Path, hits: int) -> Run:
    """Score each query against each document of the JSONL files in exact integers."""
    postings: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for path in sorted(vectors.iterdir()):
        for line in path.open(encoding="utf-8"):
            record = json.loads(line)
            for term, impact in record["vector"].items():
                postings[term].append((record["id"], impact))
    run: Run = {}
    for line in queries.open(encoding="utf-8"):
        record = json.loads(line)
        scores: dict[str, int] = defaultdict(int)
        terms = record["title"].split(" ")
        for term in terms:  # a term stands there as often as its impact says
            for document, impact in postings.get(term, ()):
                scores[document] += impact
        run[str(record["id"])] = sorted(((d, float(s)) for d, s in scores.items()), key=lambda hit: (-hit[1], hit[0]))
        run[str(record["id"])] = run[str(record["id"])][:hits]
    return run


def tied_groups(hits: list[tuple[str, float]]) -> list[tuple[int, set[str]]]:
    """Group a ranking by its integer score; Anserini's tie breaking nudges scores by millionths."""
    return [(score, {document for document, _ in group}) for score, group in groupby(hits, lambda hit: round(hit[1]))]


def disagreements(first: Run, second: Run) -> list[str]:
    """Name each query whose two rankings differ by more than the order of ties."""
    wrong = sorted(set(first) ^ set(second))
    for query in sorted(set(first) & set(second)):
        one, two = tied_groups(first[query]), tied_groups(second[query])
        cut_score = one[-1][0] if one else 0
        whole = [group for group in one if group[0] != cut_score] == [group for group in two if group[0] != cut_score]
        last = sum(len(group) for score, group in one if score == cut_score) == sum(
            len(group) for score, group in two if score == cut_score
        )
        if not (whole and last):
            wrong.append(query)
    return wrong


def main() -> None:
    """Run the three searches and report their agreement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a collection's folder made by beir_collections.py")
    parser.add_argument("--anserini", type=Path, required=True, help="Anserini's fat jar")
    parser.add_argument("--encoder", default="csplade")
    parser.add_argument("--hits", type=int, default=1000)
    arguments = parser.parse_args()
    work = arguments.work
    encoded, anserini_run = work / "topics.anserini.jsonl", work / "run.anserini.txt"
    from pyserini_llm_sparse.indexing.lucene.jdk import find_jdk

    java = find_jdk().home / "bin" / "java"
    commands = [
        f"{shlex.quote(sys.executable)} -m pyserini_llm_sparse encode-queries --encoder {arguments.encoder} "
        f"--topics {work / 'beir-topics.tsv'} --output {encoded} --format anserini-json --overwrite",
        f"{java} -cp {arguments.anserini} io.anserini.search.SearchCollection -index {work / 'index'} "
        f"-topics {encoded} -topicReader JsonString -topicField title -output {anserini_run} "
        f"-hits {arguments.hits} -impact -pretokenized",
    ]
    for command in commands:
        print(command, flush=True)
        subprocess.run(shlex.split(command), check=True, stdout=subprocess.DEVNULL)
    runs = {
        "Pyserini": read_run(work / "run.csplade.txt"),
        "Anserini": read_run(anserini_run),
        "brute force": brute_force(work / "vectors", encoded, arguments.hits),
    }
    print({name: f"{len(run)} queries, {sum(map(len, run.values()))} hits" for name, run in runs.items()})
    failed = False
    for one, two in (("Pyserini", "Anserini"), ("Pyserini", "brute force"), ("Anserini", "brute force")):
        wrong = disagreements(runs[one], runs[two])
        failed |= bool(wrong)
        print(f"{one} and {two}: {'identical up to ties' if not wrong else f'differ on {len(wrong)}: {wrong[:5]}'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
