"""Reads the training text: pairs of a query and a passage, and a development set held out from them.

The files are those that ``README.md`` names. ``acl`` (partly non-commercial) and ``papers`` (no licence stated) are
left out, since the weights are published; documents and queries of test collections are never read here.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The most pairs taken from each source: science first, since the rest is plentiful.
MOST_PAIRS = {
    "bioqa": 11000, "medquad": 9000, "arxiv": 6500, "covidqa": 1300, "selqa": 2300, "hotpotqa": 450,
    "stackexchange": 4300, "squad": 16000, "wiki_sections": 22000, "openstax": 26000, "windows-driver-docs": 4000,
    "oewn": 6000, "claims": 22000,
}  # fmt: skip
CLAIM_SOURCES = ("bioqa", "arxiv", "openstax", "medquad")
HELD_OUT_BOOKS = ("osbooks-astronomy", "osbooks-introduction-philosophy")
HELD_OUT_EVERY = 25  # one passage in so many of every pair file goes to the development set
DEVELOPMENT_DOCUMENTS = 6000  # with those that answer nothing, which make the development set hard
MOST_RELEVANT = 12  # a heading with more passages than that ("Key Concepts and Summary") is no question
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")


@dataclass(frozen=True)
class Pair:
    """A query and a passage that answers it."""

    query: str
    passage: str
    source: str


@dataclass
class Development:
    """Queries, a corpus and which documents are relevant, all held out from training."""

    documents: dict[str, str] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    relevant: dict[str, set[str]] = field(default_factory=dict)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a gzipped JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def read_pairs(data: Path) -> dict[str, list[Pair]]:
    """Return the pairs of every source under the data folder, in the order of the files."""
    pairs: dict[str, list[Pair]] = {}
    for source in MOST_PAIRS:
        path = data / "train" / f"{source}.jsonl.gz"
        if path.exists():
            pairs[source] = list(_pair_file(path, source))
    pairs["openstax"] = list(_textbooks(data / "openstax", held_out=False))
    pairs["windows-driver-docs"] = [
        Pair(f"{line['title']} {line['heading']}", line["text"], "windows-driver-docs")
        for line in read_lines(data / "windows-driver-docs" / "sections.jsonl.gz")
        if len(line["text"].split()) > 30
    ]
    pairs["oewn"] = [
        Pair(line["definition"], f"{', '.join(line['terms'])}. {' '.join(line['examples'])}", "oewn")
        for line in read_lines(data / "oewn" / "synsets.jsonl.gz")
        if line["examples"] and len(line["definition"].split()) > 4
    ]
    return pairs


def _pair_file(path: Path, source: str) -> Iterator[Pair]:
    for number, line in enumerate(read_lines(path)):
        # A title makes a pair easy; half of the passages go without.
        title = line.get("title", "") if number % 2 and source != "wiki_sections" else ""
        yield Pair(line["query"], f"{title} {line['positive']}".strip(), source)


def _textbooks(folder: Path, held_out: bool) -> Iterator[Pair]:
    passages = {line["_id"]: line for line in read_lines(folder / "passages.jsonl.gz")}
    for line in read_lines(folder / "pairs.jsonl.gz"):
        passage = passages[line["pos"]]
        words = len(passage["text"].split())
        too_plain = line["kind"] == "heading" and len(line["query"].split()) < 3
        if (passage["book"] in HELD_OUT_BOOKS) == held_out and words > 25 and not too_plain:
            yield Pair(line["query"], passage["text"], "openstax")


def claim_pair(pair: Pair, chooser: random.Random) -> Pair | None:
    """Turn a passage into a claim and the passage without it: its last sentence, or any, 8 to 45 words long."""
    sentences = SENTENCE_END.split(pair.passage)
    usable = [index for index, sentence in enumerate(sentences) if 8 <= len(sentence.split()) <= 45]
    if len(sentences) < 4 or not usable:
        return None
    chosen = usable[-1] if chooser.random() < 0.5 else chooser.choice(usable)
    rest = " ".join(sentences[:chosen] + sentences[chosen + 1 :])
    return Pair(sentences[chosen], rest, "claims")


def split(data: Path, seed: int) -> tuple[list[Pair], Development]:
    """Return shuffled training pairs, capped per source, and the development set.

    A passage belongs to one side for good: the choice is made by its text, so a passage with several queries never
    stands on both.
    """
    chooser = random.Random(seed)
    training: dict[str, list[Pair]] = defaultdict(list)
    held: dict[str, list[Pair]] = defaultdict(list)
    for source, pairs in read_pairs(data).items():
        passages = list(dict.fromkeys(_identity(pair) for pair in pairs))
        out = set(chooser.sample(passages, len(passages) // HELD_OUT_EVERY))
        for pair in pairs:
            (held if _identity(pair) in out else training)[source].append(pair)
    for side in (training, held):
        claims = (claim_pair(pair, chooser) for source in CLAIM_SOURCES for pair in side[source])
        side["claims"] = [claim for claim in claims if claim is not None]
    chosen = []
    for source, most in MOST_PAIRS.items():
        chooser.shuffle(training[source])
        chosen += training[source][:most]
    chooser.shuffle(chosen)
    return chosen, _development(held, list(_textbooks(data / "openstax", held_out=True)), chooser)


def _identity(pair: Pair) -> str:
    return " ".join(pair.passage.split()[-12:])


def _development(held: dict[str, list[Pair]], books: list[Pair], chooser: random.Random) -> Development:
    """Questions, claims and headings with all their passages, among the rest of what is held out."""
    development = Development()
    wanted = {"bioqa": 120, "squad": 60, "medquad": 40, "covidqa": 20, "stackexchange": 40, "claims": 150}
    chooser.shuffle(books)
    for source, number in {**wanted, "books": 120}.items():
        pairs = books if source == "books" else held[source]
        chooser.shuffle(pairs)
        repeated = Counter(pair.query for pair in pairs)
        hard = [
            pair
            for pair in pairs
            if len(pair.query.split()) >= (4 if source == "books" else 7) and repeated[pair.query] <= MOST_RELEVANT
        ]
        queries = {pair.query for pair in hard[:number]}
        for pair in [pair for pair in pairs if pair.query in queries]:
            document = development.documents.setdefault(pair.passage, f"d{len(development.documents)}")
            query = development.queries.setdefault(pair.query, f"{source}-{len(development.queries)}")
            development.relevant.setdefault(query, set()).add(document)
    # A claim's passage stands there without the claim; as a whole it would answer the claim as well.
    claims = [query for query, key in development.queries.items() if key.startswith("claims-")]
    rest = [pair.passage for source in sorted(held) if source != "claims" for pair in held[source]]
    rest += [pair.passage for pair in books]
    chooser.shuffle(rest)
    for passage in rest:
        if len(development.documents) >= DEVELOPMENT_DOCUMENTS:
            break
        if not any(claim in passage for claim in claims):
            development.documents.setdefault(passage, f"d{len(development.documents)}")
    development.documents = {key: text for text, key in development.documents.items()}
    development.queries = {key: text for text, key in development.queries.items()}
    return development
