"""The guides' commands run as they are written, and print what the pages show in form."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from pyserini_llm_sparse.cli.app import app
from pyserini_llm_sparse.modelling.names import EMBEDDED
from tests.commands import Pyserini

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
OWN_COLLECTION = GUIDES / "your-own-collection.md"
OWN_PAIRS = GUIDES / "csplade-own-pairs.md"
SCIFACT = GUIDES / "csplade-scifact.md"
MSMARCO = GUIDES / "csplade-msmarco-v1-passage.md"
CLAIMS = 10  # of SciFact's, with the documents that are judged for them
TRAINING_CLAIMS = 44  # two steps of sixteen pairs, and a few for development
EXPLAINED = "94"  # the claim whose document the guide explains

each_guide = pytest.mark.parametrize("page", sorted(GUIDES.glob("*.md")), ids=lambda page: page.stem)


def blocks(page: Path, language: str) -> list[str]:
    """The page's fenced blocks of one language, without what installs packages, downloads or unpacks."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(r"^(pip install|hf auth|wget|unzip|tar) .*\n", "", block, flags=re.M) for block in found]


def form(line: str) -> str:
    """A printed line with numbers and bars of any size alike."""
    return " ".join(re.sub(r"\d[\d.,]*", "1", re.sub("[▏▎▍▌▋▊▉█]+", "█", line)).split())


def shown_in_form(page: Path, printed: str) -> list[str]:
    """The lines that the page shows and that were not printed, whatever their numbers are."""
    forms = {form(line) for line in printed.splitlines()}
    return [line for block in blocks(page, "text") for line in block.splitlines() if form(line) not in forms]


def vectors(folder: Path) -> dict[str, dict[str, int]]:
    """The vectors of a folder by the documents' ids."""
    records = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_bytes().splitlines()]
    return {record["id"]: record["vector"] for record in records}


def measured(printed: str, measure: str) -> list[float]:
    """The values that trec_eval printed of a measure, in their order."""
    return [float(value) for value in re.findall(rf"^{measure}\s+all\s+(\S+)", printed, re.M)]


@pytest.mark.end_to_end
def test_the_guide_to_your_own_collection_runs_as_it_is_written(pyserini: Pyserini, tmp_path: Path) -> None:
    printed = pyserini.session("\n".join(blocks(OWN_COLLECTION, "bash")), tmp_path)
    assert shown_in_form(OWN_COLLECTION, printed) == []
    page = "\n".join(blocks(OWN_COLLECTION, "text"))
    for measure in ("ndcg_cut_10", "recip_rank"):
        assert measured(printed, measure) == pytest.approx(measured(page, measure), abs=0.05)
    assert (tmp_path / "mine" / "regressions" / "recipe" / "report.md").is_file()
    # The vectors of the two forms of the corpus are the same.
    of_jsonl, of_tsv = (vectors(tmp_path / "mine" / name) for name in ("vectors", "vectors-of-tsv"))
    assert of_jsonl == of_tsv and len(of_tsv) == 12


def cut_scifact(data: Path, folder: Path, *splits: str) -> None:
    """Write what the guide unpacks, with a few claims of each split and the documents that are judged for them."""
    original = data / "scifact"
    (folder / "qrels").mkdir(parents=True)
    claims: list[str] = []
    documents: set[str] = set()
    for split in splits:
        lines = (original / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        all_claims = list(dict.fromkeys(line.split("\t")[0] for line in lines[1:]))
        chosen = all_claims[-TRAINING_CLAIMS:] if split == "train" else [*all_claims[-CLAIMS:], EXPLAINED]
        judged = [line for line in lines[1:] if line.split("\t")[0] in chosen]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join([lines[0], *judged, ""]), encoding="utf-8")
        claims += chosen
        documents |= {line.split("\t")[1] for line in judged}
    with gzip.open(original / "corpus.jsonl.gz", "rt", encoding="utf-8") as stream:
        corpus = [line for line in stream if json.loads(line)["_id"] in documents]
    (folder / "corpus.jsonl").write_text("".join(corpus), encoding="utf-8")
    with (original / "queries.jsonl").open(encoding="utf-8") as stream:
        queries = [line for line in stream if json.loads(line)["_id"] in claims]
    (folder / "queries.jsonl").write_text("".join(queries), encoding="utf-8")


@pytest.mark.end_to_end
def test_the_guide_to_scifact_runs_on_a_part_of_it(pyserini: Pyserini, data: Path, root: Path, tmp_path: Path) -> None:
    cut_scifact(data, tmp_path / "collections" / "scifact", "test")
    recipe = (root / "examples" / "regressions" / "scifact.yaml").read_text(encoding="utf-8")
    copy = tmp_path / "examples" / "regressions" / "scifact.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(recipe.partition("\nexpected:")[0], encoding="utf-8")  # those are of all claims

    printed = pyserini.session("\n".join(blocks(SCIFACT, "bash")), tmp_path)

    assert shown_in_form(SCIFACT, printed) == []
    # Among the answers to a few claims the right one is easy to find.
    assert all(0.8 < value <= 1 for value in measured(printed, "ndcg_cut_10"))
    assert all(value > 0.95 for value in measured(printed, "recall_100"))
    assert re.search(r"^\| bm25 \|", printed, re.M) and re.search(r"^\| csplade \|", printed, re.M)


@pytest.mark.end_to_end
def test_the_guide_to_own_pairs_runs_on_a_part_of_scifact(pyserini: Pyserini, data: Path, tmp_path: Path) -> None:
    cut_scifact(data, tmp_path / "collections" / "scifact", "train", "test")

    printed = pyserini.session("\n".join(blocks(OWN_PAIRS, "bash")), tmp_path)

    number = r"[+-]?\d\.\d{4}"
    interval = rf"{number} \[{number}, {number}\] over \d+ queries"
    assert re.search(rf"tuned/model: trained 2 steps in .* nDCG@10 {number}, {number} before: {interval}", printed)
    (value,) = measured(printed, "ndcg_cut_10")
    assert 0.6 < value <= 1  # the documents of the training claims are in the way
    assert (tmp_path / "tuned" / "model" / "training" / "training.png").is_file()
    embedded, tuned = (folder / "model.safetensors" for folder in (EMBEDDED, tmp_path / "tuned" / "model"))
    assert tuned.stat().st_size == embedded.stat().st_size


def test_what_the_guide_to_scifact_shows_is_what_the_recipe_expects(root: Path) -> None:
    recipe = (root / "examples" / "regressions" / "scifact.yaml").read_text(encoding="utf-8")
    for value in measured("\n".join(blocks(SCIFACT, "text")), "ndcg_cut_10"):
        assert f"nDCG@10: {value}" in recipe


def commands(page: Path) -> list[list[str]]:
    """The page's commands of Python modules: the module, and its arguments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    found = [shlex.split(line) for line in re.findall(r"^python -m .*$", text, re.M)]
    return [words[2:] for words in found]


def parts(words: list[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Split a command into what is asked for help, and the options that are given to it."""
    module, rest = words[0], words[1:]
    if module == "pyserini.encode":
        starts = [rest.index(section) for section in ("input", "output", "encoder")] + [len(rest)]
        for start, end in itertools.pairwise(starts):
            yield (module, rest[start]), options(rest[start + 1 : end])
    elif module == "pyserini_llm_sparse":
        yield (module, rest[0]), options(rest[1:])
    else:
        yield (module,), options(rest)


def options(words: list[str]) -> list[str]:
    return [word for word in words if re.fullmatch(r"--[a-z][a-z0-9-]*", word)]


def known_options(pyserini: Pyserini, command: tuple[str, ...]) -> frozenset[str]:
    """The options of a command, as it tells them itself."""
    if command[0] == "pyserini_llm_sparse":
        parameters = typer.main.get_command(app).commands[command[1]].params  # type: ignore[attr-defined]
        return frozenset(option for parameter in parameters for option in parameter.opts)
    asked = "--options" if command[0] == "pyserini.index.lucene" else "--help"  # that one's parser is Java's
    done = pyserini("-m", *command, asked, check=False)
    found = re.findall(r"(?<![\w-])--?[a-zA-Z][a-zA-Z0-9-]*", done.stdout + done.stderr)
    return frozenset(f"--{option.lstrip('-')}" for option in found)


def test_every_option_exists_of_the_commands_that_are_not_run(pyserini: Pyserini) -> None:
    found = commands(MSMARCO)
    assert len(found) >= 5
    given: dict[tuple[str, ...], set[str]] = {}
    for words in found:
        if not words[0].startswith("pyserini.eval."):  # trec_eval is a program of its own
            for command, options_given in parts(words):
                given.setdefault(command, set()).update(options_given)
    for command, options_given in given.items():
        assert options_given <= known_options(pyserini, command), command


@each_guide
def test_a_guide_is_written_as_pyserini_s_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r"# Pyserini: .+ on .+\n", text)
    assert "\n## Reproduction Log\n\n+ " in text
    assert not re.search(r"/work/|/home/|/tmp/", text)


@each_guide
def test_every_link_of_a_guide_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@each_guide
def test_the_readme_links_to_each_guide(page: Path, root: Path) -> None:
    assert f"(docs/guides/{page.name})" in (root / "README.md").read_text(encoding="utf-8")


def test_the_guide_to_msmarco_says_that_nobody_ran_it() -> None:
    text = MSMARCO.read_text(encoding="utf-8")
    assert "It was not run here" in text and "Published, not measured here" in text
    assert not blocks(MSMARCO, "text")  # nothing pretends to be output
