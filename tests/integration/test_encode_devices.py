"""One command encodes on several devices: the same files as one process, one error, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import ResourceError, RunError, UsageError
from pyserini_llm_sparse.indexing.vectors.devices import devices_of, encode_on_devices
from pyserini_llm_sparse.indexing.vectors.report import EncodeReport
from tests.checkpoints import checkpoint, sentences
from tests.exports import exported

COUNT, WINDOW = 50, 8  # seven windows, the last of two documents
DEVICES = ["cpu", "cpu"]


@pytest.fixture(scope="module")
def model() -> str:
    """An export: its processes start without torch."""
    return str(exported("llama_causal_tied"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path, source = tmp_path / "corpus.jsonl", sentences()
    texts = [" ".join(source[number % len(source)].split()[: number % 9 + 1]) for number in range(COUNT)]
    path.write_text("".join(json.dumps({"id": f"d{n}", "contents": text}) + "\n" for n, text in enumerate(texts)))
    return path


def encode(model: str, corpus: Path, name: str, *more: str) -> int:
    output = corpus.parent / name / "vectors"
    output.parent.mkdir(exist_ok=True)
    options = ["--threads", "1", "--window-size", str(WINDOW), *more]
    return main(["encode", "--encoder", model, "--corpus", str(corpus), "--output", str(output), *options])


def run(model: str, corpus: Path, name: str, **options: Any) -> EncodeReport:
    output = corpus.parent / name / "vectors"
    output.parent.mkdir(exist_ok=True)
    options = {"window_size": WINDOW, "loading": {"threads": 1}, **options}
    return encode_on_devices(model, DEVICES, corpus, output, **options)


def content(corpus: Path, name: str) -> dict[str, bytes]:
    """Every file, so that what is left behind shows, too."""
    folder = corpus.parent / name
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Counter:
    """Counts records by whether they were encoded now."""

    def __init__(self) -> None:
        self.done = {True: 0, False: 0}

    def __call__(self, number: int, now: bool) -> None:
        self.done[now] += number


def test_two_processes_write_the_files_of_one(model: str, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode(model, corpus, "one", "--device", "cpu") == 0
    capsys.readouterr()
    assert encode(model, corpus, "two", "--device", "cpu,cpu", "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["documents"], report["encoded"], report["finished"]) == (COUNT, COUNT, True)
    said, size = printed.err.splitlines()
    assert f"encoded {COUNT} documents in " in said and size.endswith("kB of vectors")
    assert content(corpus, "two") == content(corpus, "one")
    assert encode(model, corpus, "two", "--device", "cpu,cpu") == 0
    assert "complete already: 50 documents; nothing to do" in capsys.readouterr().err


def test_a_failing_process_ends_all_with_its_line_and_code_and_the_next_run_goes_on(
    model: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = corpus.read_text()
    assert encode(model, corpus, "one", "--device", "cpu") == 0
    lines = whole.splitlines(keepends=True)
    lines[3 * WINDOW] = "not json\n"  # in a window of the second process
    corpus.write_text("".join(lines))
    capsys.readouterr()
    assert encode(model, corpus, "two", "--device", "cpu,cpu") == 5
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"error: {corpus}:{3 * WINDOW + 1}: " in said[0]
    assert "two/vectors.manifest.json" not in {f"two/{name}" for name in content(corpus, "two")}
    corpus.write_text(whole)
    progress = Counter()
    report = run(model, corpus, "two", progress=progress)
    # A process that starts after the other has ended the whole job has nothing to tell.
    assert sum(progress.done.values()) <= COUNT and progress.done[True] == report.encoded
    expected, found = content(corpus, "one"), content(corpus, "two")
    del expected["vectors.manifest.json"], found["vectors.manifest.json"]  # it knows when the corpus was changed
    assert found == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children are found in /proc")
def test_a_killed_process_is_reported_and_no_other_goes_on(model: str, corpus: Path) -> None:
    def children() -> list[int]:
        listed = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
        return [int(number) for numbers in listed for number in numbers if is_shard(number)]

    def is_shard(number: str) -> bool:
        return b"pyserini_llm_sparse.indexing.vectors.shard" in Path(f"/proc/{number}/cmdline").read_bytes()

    def kill(number: int, now: bool) -> None:
        if not killed:
            killed.append(children()[0])
            os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    corpus.write_text("".join(corpus.read_text().replace('"d', f'"r{n}d') for n in range(60)))  # a second of work
    with pytest.raises(RunError, match=r"cpu: its process was ended by SIGKILL.*to go on"):
        run(model, corpus, "killed", progress=kill)
    assert children() == []
    assert run(model, corpus, "killed").documents == 60 * COUNT


def test_other_vectors_are_replaced_only_on_request_and_not_while_they_are_written(
    model: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(model, corpus, "out", "--device", "cpu", "--max-active-terms", "3") == 0
    before = content(corpus, "out")
    assert encode(model, corpus, "out", "--device", "cpu,cpu") == 5
    assert "document_top_k is None here, 3 there" in capsys.readouterr().err.splitlines()[-1]
    folder = corpus.parent / "out" / "vectors.unfinished"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "shard-0-of-1.lock"):
        assert encode(model, corpus, "out", "--device", "cpu,cpu", "--overwrite") == 6
    assert "another process is writing it" in capsys.readouterr().err
    assert {name: held for name, held in content(corpus, "out").items() if "unfinished" not in name} == before
    whole = corpus.read_text()
    corpus.write_text(f"not json\n{whole}")
    assert encode(model, corpus, "out", "--device", "cpu,cpu", "--overwrite") == 5
    assert {name: held for name, held in content(corpus, "out").items() if "unfinished" not in name} == before
    corpus.write_text(whole)
    assert encode(model, corpus, "out", "--device", "cpu,cpu", "--overwrite") == 0
    assert encode(model, corpus, "one", "--device", "cpu") == 0
    assert content(corpus, "out") == content(corpus, "one")


@pytest.mark.usefixtures("forked_children")
def test_a_torch_model_on_more_devices_than_there_are_windows(corpus: Path) -> None:
    output = corpus.parent / "vectors"
    report = encode_on_devices(
        str(checkpoint("llama_causal")), ["cpu"] * 2, corpus, output, loading={"document_top_k": 9}, window_size=COUNT
    )
    assert report.finished and report.documents == report.encoded == COUNT
    assert [path.name for path in output.iterdir()] == ["embeddings-00000.jsonl"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--device", "cpu,abacus"], 2, "device abacus: "),
        (["--device", "cpu,"], 2, "device cpu,: a name is missing"),
        (["--device", "cpu,cpu", "--shard-num", "2"], 2, "each device is a shard already"),
        (["--device", "cpu,cpu", "--encoder", "./nowhere"], 4, "nowhere"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_removed_or_started(
    more: list[str], code: int, said: str, model: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode(model, corpus, "out", *more, "--overwrite") == code
    printed = capsys.readouterr().err
    assert said in printed and len(printed.splitlines()) == 1
    assert list((corpus.parent / "out").iterdir()) == []


def test_devices_are_lists_or_all_gpus() -> None:
    assert devices_of("cpu,cuda:0 , cuda:0") == ["cpu", "cuda:0", "cuda:0"]
    assert devices_of("cuda:3") is devices_of(None) is None
    with pytest.raises(UsageError):
        devices_of(",")
    import torch

    if torch.cuda.device_count():
        assert devices_of("cuda:all") == [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    else:
        with pytest.raises(ResourceError, match="sees no GPU"):
            devices_of("cuda:all")


def test_a_shard_s_process_ends_with_its_parent(model: str, corpus: Path, root: Path) -> None:
    """Standard input ends when the parent does, however that ends."""
    job = {"encoder": model, "loading": {}, "encoding": {"corpus": str(corpus), "output": str(corpus.parent / "out")}}
    done = subprocess.run(
        [sys.executable, "-m", "pyserini_llm_sparse.indexing.vectors.shard"],
        input=json.dumps(job).encode() + b"\n", capture_output=True, cwd=root, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and not (corpus.parent / "out.manifest.json").exists()
