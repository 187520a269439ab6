"""The scripts in benchmarks/ explain themselves, and what they compute figures with is right."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pyserini_llm_sparse import SparseEncoder
from tests.checkpoints import SMALL, TEXTS, checkpoint

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))


@pytest.fixture
def benchmark(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """A module, imported as the scripts import it."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module(request.param)
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_how_a_script_is_called(script: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run([sys.executable, FOLDER / script, "--help"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"python benchmarks/{script}" in done.stdout


@pytest.mark.parametrize("benchmark", ["rounds"], indirect=True)
def test_a_summary_has_medians_and_the_largest_peak(benchmark: ModuleType) -> None:
    runs = [{"speed": 1.0, "peak_mb": 5.0}, {"speed": 9.0, "peak_mb": 7.0}, {"speed": 2.0, "peak_mb": 6.0, "more": 1.0}]
    assert benchmark.summary(runs) == {"speed": 2.0, "peak_mb": 7.0}


WAY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from rounds import serve
from pyserini_llm_sparse.errors import UsageError

def load():
    print("a library says something")
    if sys.argv[2] == "refused":
        raise UsageError("way: refused; choose another")
    seen = open(sys.argv[3], "a")
    seen.write(f"load {sys.argv[2]}\\n"), seen.flush()

    def work():
        seen.write(f"round {sys.argv[2]}\\n"), seen.flush()
        if sys.argv[2] == "broken":
            raise RuntimeError("out of memory\\nin two lines")
        if sys.argv[2] == "killed":
            os.kill(os.getpid(), 9)
        return {"speed": 1.0 + len(sys.argv[2])}

    return work

serve(load)
"""


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("benchmark", ["rounds"], indirect=True)
def test_rounds_alternate_and_a_refusal_is_a_line(
    benchmark: ModuleType, together: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "way.py").write_text(WAY)
    names = ("a", "refused", "broken", "killed", "bb")
    ways = {way: [tmp_path / "way.py", FOLDER, way, tmp_path / "seen"] for way in names}
    measured = benchmark.alternate(ways, 2, twice=["a"], together=together)
    loaded = [way for way in names if way != "refused"]
    order = [f"{step} {way}" for way in loaded for step in ("load", "round")]
    order += [step for step in order if "broken" not in step and "killed" not in step]
    if together:  # all are loaded first
        order = [f"load {way}" for way in loaded] + [step for step in order if "load" not in step]
    assert (tmp_path / "seen").read_text().splitlines() == ["load a", *order]
    assert measured.figures == {"a": {"speed": 2.0}, "bb": {"speed": 3.0}}
    assert measured.ratio("bb", "a", "speed") == "1.50"
    assert measured.ratio("bb", "refused", "speed") == "-"
    measured.print_reasons()
    reasons = ["refused: not run: way: refused; choose another", "broken: not run: out of memory in two lines"]
    reasons.append("killed: not run: killed, perhaps for want of memory: the ways that run are all in memory")
    assert [line for line in capsys.readouterr().out.splitlines() if line] == reasons
    measured.save(tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["refused"] == {"not_run": "way: refused; choose another"}


@pytest.mark.parametrize("benchmark", ["query_latency"], indirect=True)
def test_percentiles_are_values_that_were_measured(benchmark: ModuleType) -> None:
    values = [float(number) for number in range(200, 0, -1)]
    assert [benchmark.percentile(values, share) for share in (0.5, 0.99, 1)] == [100, 198, 200]
    assert benchmark.percentile([3.0], 0.99) == 3.0


@pytest.mark.parametrize("benchmark", ["search_command"], indirect=True)
def test_commands_differ_in_their_encoder_alone(benchmark: ModuleType) -> None:
    options = argparse.Namespace(hits=10, threads=2, batch_size=8)
    names = benchmark.encoders("csplade", Path("splade-random"))
    assert set(names) == set(benchmark.WAYS)
    places = Path("index"), Path("topics.tsv"), Path("run.txt")
    words = [benchmark.command(name, *places, options) for name in names.values()]
    assert len({tuple(word for word in one if word not in names.values()) for one in words}) == 1


@pytest.mark.parametrize("benchmark", ["products"], indirect=True)
def test_products_are_those_of_all_layers_and_the_head(benchmark: ModuleType) -> None:
    encoder = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu")
    width, feed_forward, layers = SMALL["hidden_size"], SMALL["intermediate_size"], SMALL["num_hidden_layers"]
    keys = width * SMALL["num_key_value_heads"] // SMALL["num_attention_heads"]
    layer = [(width, width), (width, keys), (width, keys), (width, width), (width, feed_forward)]
    layer += [(width, feed_forward), (feed_forward, width)]
    head = (width, encoder.checkpoint.vocabulary_size)
    assert benchmark.matrix_shapes(encoder.checkpoint) == [*layer * layers, head]


@pytest.mark.parametrize("benchmark", ["products"], indirect=True)
def test_padded_rows_are_those_that_the_model_computes(benchmark: ModuleType) -> None:
    encoder = SparseEncoder.load(str(checkpoint("llama_causal")), device="cpu")
    rows = benchmark.padded_rows(encoder, list(TEXTS), 64)
    lengths = [len(text.ids) for text in encoder.tokenization.token_ids(TEXTS, "document")]
    assert sum(lengths) <= sum(rows) <= len(lengths) * max(lengths)
    assert all(count <= max(64, *lengths) for count in rows) and len(rows) > 1


@pytest.mark.parametrize("benchmark", ["output_speed"], indirect=True)
def test_the_free_encoder_writes_every_document(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "VOCABULARY", 500)
    benchmark.write_corpus(tmp_path / "corpus.jsonl", TEXTS, 70)
    records = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text("utf-8").splitlines()]
    documents = [(record["id"], record["contents"]) for record in records]
    write = benchmark.our_writer(tmp_path / "corpus.jsonl", documents, tmp_path)
    for _ in range(2):
        assert write() > 0
    found = benchmark.written(tmp_path / "vectors")
    vectors = benchmark.vectors_of(70).impacts(benchmark.FACTOR, 65535).matrix
    assert [(name, record["contents"]) for name, record in found.items()] == documents
    for row, record in enumerate(found.values()):
        assert len(record["vector"]) == benchmark.TERMS
        assert record["vector"] == {f"Ġterm{term}": vectors[row, term] for term in vectors[[row]].indices}


@pytest.mark.parametrize("benchmark", ["output_speed"], indirect=True)
def test_only_the_named_method_is_timed(benchmark: ModuleType) -> None:
    timed = benchmark.Timed("some text", "upper")
    assert timed.lower() == "some text"
    assert timed.seconds == 0
    assert timed.upper() == "SOME TEXT"
    assert timed.seconds > 0
