"""Run the main job on the demo collection: BM25 and csplade through plain Pyserini commands, then both compared.

    python examples/demo/run.py [--work DIR] [--encoder csplade]

Each command is printed before it runs and can be pasted into a shell. What the commands print goes to DIR/demo.log.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEASURES = {"ndcg_cut_10": "nDCG@10", "recip_rank": "MRR@10", "recall_10": "recall@10"}
KINDS = {"1": "reworded queries", "2": "exact-term queries"}  # by the first digit of the query's id
SUBCOMMANDS = ("input", "output", "encoder")  # of pyserini.encode
WIDTH = 96
Scores = dict[str, dict[str, float]]  # measure -> query id -> value


class DemoError(Exception):
    """A reason to stop, in one line, with the exit code to stop with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass
class Session:
    """Runs the steps one after the other, shows them, and keeps their output in a log and their times in a list."""

    log: Path
    total: int
    times: list[tuple[str, float]] = field(default_factory=list)

    def run(self, title: str, arguments: Iterable[str | Path]) -> str:
        """Show and run one `python -m` command; return what it wrote to standard output.

        Raises:
            DemoError: The command failed; the end of its output is in the message.
        """
        words = [path_shown(argument) if isinstance(argument, Path) else argument for argument in arguments]
        print(f"\n[{len(self.times) + 1}/{self.total}] {title}\n\n{command_shown(words)}\n", flush=True)
        start = time.perf_counter()
        with self.log.open("a+", encoding="utf-8", errors="replace") as log:
            log.write(f"\n$ python -m {shlex.join(words)}\n")
            log.flush()
            begin = log.tell()
            child = subprocess.run(
                [sys.executable, "-m", *words],
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            )
            log.seek(0, os.SEEK_END)
            log.write(child.stdout)
            log.seek(begin)
            lines = log.read().splitlines()
        seconds = time.perf_counter() - start
        self.times.append((title, seconds))
        if child.returncode:
            tail = textwrap.indent("\n".join(lines[-15:]), "    ")
            message = f"{words[0]} ended with exit code {child.returncode}; all of it is in {path_shown(self.log)}"
            raise DemoError(f"{message}:\n{tail}", child.returncode if 2 <= child.returncode <= 7 else 6)
        print(f"      {seconds:.1f} s", flush=True)
        return child.stdout


def path_shown(path: Path) -> str:
    """The path as a user would type it: relative to the current folder where it lies beneath it."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def command_shown(words: list[str]) -> str:
    """A `python -m` command that can be pasted into a shell, broken so that it fits the width."""
    groups = [["python", "-m", words[0]]]  # an option stays with its values, a sub-command with its first option
    for word in words[1:]:
        only_subcommand = len(groups[-1]) == 1 and groups[-1][0] in SUBCOMMANDS
        if word in SUBCOMMANDS or (word.startswith("-") and not only_subcommand):
            groups.append([word])
        else:
            groups[-1].append(word)
    lines = [""]
    for group in groups:
        text = shlex.join(group)
        if group[0] in SUBCOMMANDS or len(lines[-1]) + len(text) > WIDTH - 14:
            lines.append("")
        lines[-1] += f" {text}" if lines[-1] else text
    return "      " + " \\\n          ".join(lines)


def prepare(work: Path) -> Path:
    """Empty the work folder of an earlier demo and return its new log; refuse to touch any other folder's content.

    Raises:
        DemoError: The folder holds something that this script did not write.
    """
    log = work / "demo.log"
    if work.exists() and (not work.is_dir() or (any(work.iterdir()) and not log.exists())):
        raise DemoError(f"{work}: holds files of another origin: nothing was overwritten; name another --work", 2)
    work.mkdir(parents=True, exist_ok=True)
    for system in ("bm25", "csplade"):
        shutil.rmtree(work / system, ignore_errors=True)
        (work / system).mkdir()
    log.write_text("", encoding="utf-8")
    return log


def search_bm25(session: Session, folder: Path) -> Path:
    """Index the passages and search them with BM25; return the run file."""
    # fmt: off
    session.run("BM25: index the passages", [
        "pyserini.index.lucene", "--collection", "JsonCollection", "--input", HERE / "corpus",
        "--index", folder / "index", "--generator", "DefaultLuceneDocumentGenerator", "--threads", "1",
    ])
    session.run("BM25: search", [
        "pyserini.search.lucene", "--index", folder / "index", "--topics", HERE / "queries.tsv",
        "--output", folder / "run.txt", "--bm25", "--hits", "100",
    ])
    # fmt: on
    return folder / "run.txt"


def search_csplade(session: Session, folder: Path, encoder: str) -> Path:
    """Encode the passages, index the vectors and search them with queries encoded on the way; return the run file."""
    # fmt: off
    session.run("csplade: encode the passages", [
        "pyserini.encode", "input", "--corpus", HERE / "corpus",
        "output", "--embeddings", folder / "vectors", "encoder", "--encoder", encoder,
    ])
    session.run("csplade: index the vectors", [
        "pyserini.index.lucene", "--collection", "JsonVectorCollection", "--input", folder / "vectors",
        "--index", folder / "index", "--generator", "DefaultLuceneDocumentGenerator", "--threads", "1",
        "--impact", "--pretokenized",
    ])
    session.run("csplade: search; the queries are encoded on the way", [
        "pyserini.search.lucene", "--index", folder / "index", "--topics", HERE / "queries.tsv",
        "--encoder", encoder, "--output", folder / "run.txt", "--impact", "--hits", "100",
    ])
    # fmt: on
    return folder / "run.txt"


def evaluate(session: Session, system: str, run: Path, queries: Iterable[str]) -> Scores:
    """Have trec_eval judge the first ten results for each query of a run, which makes recip_rank MRR@10."""
    options = ["-c", "-q", "-M", "10", "-m", "ndcg_cut.10", "-m", "recip_rank", "-m", "recall.10"]
    output = session.run(f"{system}: evaluate", ["pyserini.eval.trec_eval", *options, HERE / "qrels.txt", run])
    return parse_measures(output, queries)


def parse_measures(output: str, queries: Iterable[str]) -> Scores:
    """The values in trec_eval's output; a query that it does not name, since nothing was found, counts as 0.

    Raises:
        DemoError: The output holds no means, so it is not trec_eval's.
    """
    scores: Scores = {measure: dict.fromkeys(queries, 0.0) for measure in MEASURES}
    rows = [columns for columns in map(str.split, output.splitlines()) if len(columns) == 3 and columns[0] in scores]
    if not any(query == "all" for _, query, _ in rows):
        raise DemoError("pyserini.eval.trec_eval printed no measures; run `python -m pyserini_llm_sparse doctor`", 3)
    for measure, query, value in rows:
        if query in scores[measure]:
            scores[measure][query] = float(value)
    return scores


def read_queries() -> dict[str, str]:
    """The text of every query by its id, in the file's order."""
    return dict(line.split("\t", 1) for line in read_lines(HERE / "queries.tsv"))


def read_lines(path: Path) -> list[str]:
    """The lines of a small text file."""
    return path.read_text(encoding="utf-8").splitlines()


def best_answer(query: str, run: Path) -> str:
    """The id of the passage, among those that answer a query, that a run ranks highest; else the run's first."""
    judged = map(str.split, read_lines(HERE / "qrels.txt"))
    answers = {document for judged_query, _, document, grade in judged if judged_query == query and grade == "2"}
    ranked = [columns[2] for columns in map(str.split, read_lines(run)) if columns[0] == query]
    return next((document for document in ranked if document in answers), ranked[0])


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean of at least one value."""
    listed = list(values)
    return sum(listed) / len(listed)


def measures_table(bm25: Scores, csplade: Scores) -> Iterator[str]:
    """Mean measures of both systems over all queries and over each kind of query."""
    columns = [f"{name:>10}" for name in MEASURES.values()]
    yield f"{'':32}" + "".join(columns)
    everyone = list(bm25["ndcg_cut_10"])
    groups = {"all queries": everyone}
    groups |= {name: [query for query in everyone if query.startswith(digit)] for digit, name in KINDS.items()}
    for name, members in groups.items():
        label = f"{len(members)} {name}" if name != "all queries" else f"all {len(members)} queries"
        for system, scores in (("BM25", bm25), ("csplade", csplade)):
            values = (mean(scores[measure][query] for query in members) for measure in MEASURES)
            yield f"{label:24}{system:8}" + "".join(f"{value:10.3f}" for value in values)
            label = ""


def wins_table(bm25: Scores, csplade: Scores, queries: dict[str, str]) -> Iterator[str]:
    """Which queries each system answers better by nDCG@10, the largest difference first."""
    gain = {query: csplade["ndcg_cut_10"][query] - bm25["ndcg_cut_10"][query] for query in queries}
    largest_first = sorted(queries, key=lambda query: -abs(gain[query]))
    for system, sign in (("csplade", 1), ("BM25", -1)):
        members = [query for query in largest_first if sign * gain[query] > 0]
        yield f"{system} is better on {len(members)} of {len(queries)} queries (nDCG@10)"
        if members:
            yield f"  {'BM25':>6}{'csplade':>9}   query"
        for query in members:
            text = textwrap.shorten(f"{query}  {queries[query]}", WIDTH - 20, placeholder=" ...")
            yield f"  {bm25['ndcg_cut_10'][query]:6.3f}{csplade['ndcg_cut_10'][query]:9.3f}   {text}"
        yield ""
    yield f"Both are the same on {sum(not difference for difference in gain.values())}."


def times_table(times: list[tuple[str, float]]) -> Iterator[str]:
    """How long each step took, start of Python and Java included."""
    for title, seconds in (*times, ("all steps", sum(seconds for _, seconds in times))):
        yield f"{title:56}{seconds:8.1f} s"


def demo(work: Path, encoder: str) -> None:
    """Run all steps and print the comparison."""
    queries = read_queries()
    passages = len(read_lines(HERE / "corpus" / "corpus.jsonl"))
    session = Session(prepare(work), total=8)
    print(f"BM25 and {encoder} on the demo collection: {passages} passages, {len(queries)} queries")
    print(f"  python is {path_shown(Path(sys.executable))}, results and log are in {path_shown(work)}")
    bm25_run = search_bm25(session, work / "bm25")
    bm25 = evaluate(session, "BM25", bm25_run, queries)
    csplade_run = search_csplade(session, work / "csplade", encoder)
    csplade = evaluate(session, "csplade", csplade_run, queries)
    explanation = explain(session, encoder, csplade_run, bm25, csplade, queries)
    print("\n" + textwrap.indent(explanation.rstrip(), "      "))
    for table in (
        measures_table(bm25, csplade),
        wins_table(bm25, csplade, queries),
        times_table(session.times),
    ):
        print("\n" + "-" * WIDTH)
        print("\n".join(table))


def explain(session: Session, encoder: str, run: Path, bm25: Scores, csplade: Scores, queries: dict[str, str]) -> str:
    """Have our own command explain the query on which csplade gains most, and the answer that it found."""
    query = max(queries, key=lambda each: csplade["ndcg_cut_10"][each] - bm25["ndcg_cut_10"][each])
    # fmt: off
    return session.run("csplade: which terms made a passage match?", [
        "pyserini_llm_sparse", "explain", "--encoder", encoder, "--index", run.parent / "index",
        "--query", queries[query], "--docid", best_answer(query, run), "--top", "10",
    ])
    # fmt: on


def main() -> int:
    """Parse the arguments, run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "build" / "demo", help="folder for all results")
    parser.add_argument("--encoder", default="csplade", help="an encoder name such as csplade or csplade:PATH")
    arguments = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # terms hold letters that not every terminal has
    try:
        demo(arguments.work, arguments.encoder)
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
