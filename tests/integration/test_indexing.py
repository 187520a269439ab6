"""`index` vouches for what it leaves: the vectors of the manifest, in a commit of its own, under their own spec."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, LlmSparseError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.indexing import lucene
from pyserini_llm_sparse.indexing.vectors import encode_corpus
from pyserini_llm_sparse.modelling.spec import EncodingSpec, sidecar
from pyserini_llm_sparse.regressions.run import checking
from pyserini_llm_sparse.system import own_environment
from tests.integration.conftest import Pyserini

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def encoded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors of five documents in three files, with their manifest."""
    folder = tmp_path_factory.mktemp("encoded")
    rows = [{"id": f"d{number}", "text": f"wings over lake number {number}"} for number in range(5)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    encode_corpus(SparseEncoder.load(f"csplade:{model}"), folder / "corpus.jsonl", folder / "vectors", window_size=2)
    return folder


@pytest.fixture
def vectors(encoded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoded, tmp_path / "copy")) / "vectors"


def other_impact(vectors: Path) -> None:
    part = vectors / "embeddings-00001.jsonl"
    rows = [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
    rows[0]["vector"] = {term: impact + 1 for term, impact in rows[0]["vector"].items()}
    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "embeddings-00001.jsonl").unlink(), "00001.jsonl: missing: vectors.manifest.json"),
        (other_impact, r"00001.jsonl: changed: its SHA-256 is not that of vectors.manifest.json; give the encode"),
        (lambda folder: (folder / "more.jsonl").write_text('{"id": "x", "vector": {"a": 1}}'), "more.jsonl: not of"),
        (lambda folder: sidecar(folder).unlink(), "their encoding spec is missing"),
        (lambda folder: folder.with_name("vectors.manifest.json").write_text("{"), "manifest.json: damaged"),
    ],
)
def test_vectors_that_are_not_those_of_the_manifest_are_not_indexed(
    damage: Callable[[Path], object], said: str, vectors: Path
) -> None:
    damage(vectors)
    with pytest.raises(DataError, match=said):
        lucene.index(vectors, vectors.with_name("index"))
    assert not vectors.with_name("index").exists()


def test_encoding_again_repairs_a_file_that_kept_its_size(vectors: Path, model: Path) -> None:
    part = vectors / "embeddings-00001.jsonl"
    before = part.read_bytes()
    part.write_bytes(before.replace(b'"d2"', b'"d9"'))
    encode_corpus(SparseEncoder.load(f"csplade:{model}"), vectors.with_name("corpus.jsonl"), vectors, window_size=2)
    assert part.read_bytes() == before


def test_vectors_under_a_links_name_are_compared_and_bring_their_spec(vectors: Path) -> None:
    link = vectors.with_name("elsewhere") / "link"
    link.parent.mkdir()
    link.symlink_to(vectors)
    assert lucene.index(link, vectors.with_name("index")).indexed == 5
    assert lucene.read_index_spec(vectors.with_name("index")) == EncodingSpec.load(sidecar(vectors))
    other_impact(vectors)
    with pytest.raises(DataError, match="changed"):
        lucene.index(link, vectors.with_name("index2"))


def test_an_index_is_replaced_only_if_asked_and_only_an_index(vectors: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    lucene.index(vectors, index)
    with pytest.raises(UsageError, match=r"exists already: .* give --overwrite"):
        lucene.index(vectors, index)
    assert lucene.index(vectors, index, overwrite=True).indexed == 5
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="holds something else: there are files but no Lucene index"):
            lucene.index(vectors, tmp_path / "thesis", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def small_disk(folder: Path) -> None:
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a disk of its own cannot be mounted here")


def test_a_full_disk_is_told_and_leaves_the_former_index_with_its_spec(vectors: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    small_disk(disk)
    try:
        lucene.index(vectors, disk / "index")
        spec, state = lucene.read_index_spec(disk / "index"), lucene.index_state(disk / "index")
        with (disk / "filler").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
            while True:
                stream.write(bytes(4096))
        with pytest.raises(ResourceError, match="No space left on device: disk full"):
            lucene.index(vectors, disk / "index", overwrite=True)
        assert (lucene.read_index_spec(disk / "index"), lucene.index_state(disk / "index")) == (spec, state)
    finally:
        subprocess.run(["umount", disk], check=True)


KILLED = """
import os, sys
from pyserini_llm_sparse.children import run_module
from pyserini_llm_sparse.plugin.patches import indexing
indexing.settle_index_spec = lambda *details: os._exit(9)
run_module(sys.argv[1:])
"""


def test_killed_after_lucenes_commit_an_index_has_no_former_spec(vectors: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    lucene.index(vectors, index)
    state = lucene.index_state(index)
    arguments = [
        "--generator", "DefaultLuceneDocumentGenerator", "--collection", "JsonVectorCollection", "--input", vectors,
        "--index", index, "--threads", "1", "--impact", "--pretokenized",
    ]  # fmt: skip
    command = ["pyserini.index.lucene", *map(str, arguments)]
    # The process dies at the very point where the spec would be written, after Lucene's commit.
    done = subprocess.run([sys.executable, "-c", KILLED, *command], env=own_environment(), check=False)
    assert done.returncode == 9
    assert lucene.index_state(index) != state
    assert lucene.read_index_spec(index) is None


def test_an_index_is_compared_with_its_vectors_or_texts(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["checking", "--index", *map(str, (tmp_path / "index", *arguments))])
        checking.main()

    more, texts = tmp_path / "more", tmp_path / "texts.jsonl"
    lucene.index(vectors, tmp_path / "index")
    shutil.copytree(vectors, more)
    compared("--vectors", more)
    texts.write_text("{}\n" * 5)
    compared("--texts", texts)
    (more / "more.jsonl").write_text('{"id": "new", "contents": "", "vector": {"a": 1}}\n')
    texts.write_text("{}\n" * 6)
    with pytest.raises(SystemExit, match="1 documents are missing from the index: new; index the vectors again"):
        compared("--vectors", more)
    with pytest.raises(SystemExit, match="holds 5 of 6 documents"):
        compared("--texts", texts)


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        (
            [{"id": "x" * 40_000, "vector": {"a": 1}}],
            DataError,
            r"all.jsonl:1: id of 40,000 bytes, 'xxx",
        ),
        ([{"id": "x" * 32_766, "vector": {"a": 1}}], None, ""),
        # The term whose impact overflows Java's int is lost, though its document is not.
        ([{"id": "kept", "vector": {"a": 1, "b": 3_000_000_000}}], RunError, "holds 1 of 2 postings"),
        # Terms that Lucene's tokenizer divides would be found as others.
        ([{"id": "kept", "vector": {"a b": 2}}], RunError, "holds 2 postings instead of 1: Lucene divided terms"),
    ],
)
def test_what_lucene_would_lose_is_told(
    rows: list[dict[str, object]], error: type[LlmSparseError] | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "vectors").mkdir()
    text = "".join(json.dumps({**row, "contents": ""}) + "\n" for row in rows)
    (tmp_path / "vectors" / "all.jsonl").write_text(text, encoding="utf-8")
    if error is None:
        assert lucene.index(tmp_path / "vectors", tmp_path / "index").indexed == len(rows)
        return
    with pytest.raises(error, match=said) as refused:
        lucene.index(tmp_path / "vectors", tmp_path / "index")
    assert len(str(refused.value)) < 400


MOVES = """
import json, os, sys
from pyserini.search.lucene import LuceneImpactSearcher
from pyserini_llm_sparse import SparseEncoder
from pyserini_llm_sparse.indexing import lucene

encoder, home = sys.argv[1], sys.argv[2]
query = SparseEncoder.load(encoder).query_impacts(["wings"])[0]
found = []
for name in ("one", "two"):
    os.chdir(os.path.join(home, name))
    lucene.index("vectors", "index")
    with lucene.LuceneIndex("index") as opened:
        found.append([[hit.document_id for hit in opened.search(query)],
                      [hit.docid for hit in LuceneImpactSearcher("index", encoder).search("wings")]])
print(json.dumps(found))
"""


@pytest.mark.parametrize("locale", ["C.UTF-8", "C", "xx_YY.UTF-8"])
def test_python_and_java_mean_the_same_index_by_a_name(
    locale: str, model: Path, tmp_path: Path, pyserini: Pyserini
) -> None:
    # After a change of directory, and with letters that the locale does not know.
    home = tmp_path / "\u6570\u636e"
    for name in ("one", "two"):
        (home / name).mkdir(parents=True)
        record = {"id": name, "text": f"wings of {name}"}
        (home / name / "corpus.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
        encode_corpus(SparseEncoder.load(f"csplade:{model}"), home / name / "corpus.jsonl", home / name / "vectors")
    printed = pyserini("-c", MOVES, f"csplade:{model}", home, LC_ALL=locale).stdout
    assert json.loads(printed.splitlines()[-1]) == [[["one"], ["one"]], [["two"], ["two"]]]
