"""A run that is killed with SIGKILL at random points and started again ends with the bytes of an undisturbed one.

PYSERINI_LLM_SPARSE_KILLS sets the number of points (2 by default), PYSERINI_LLM_SPARSE_SEED where they are.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkpoints import sentences
from tests.exports import exported

KILLS = int(os.environ.get("PYSERINI_LLM_SPARSE_KILLS", "2"))
SEED = int(os.environ.get("PYSERINI_LLM_SPARSE_SEED", "1"))
COUNT, WINDOW = 1200, 20

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL on this system")


def encode(root: Path, corpus: Path, output: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a job with an export: most of its time it encodes, for torch is not loaded."""
    command = [
        sys.executable, "-m", "pyserini_llm_sparse", "encode", "--encoder", str(exported("llama_causal_tied")),
        "--corpus", str(corpus), "--output", str(output), "--window-size", str(WINDOW), "--device", "cpu",
        "--threads", "1", "--max-active-terms", "50",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with log.open("wb") as stream:
        return subprocess.Popen(command, env=environment, stderr=stream)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_at_random_points_it_ends_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    source, chance = sentences(), random.Random(SEED)
    corpus = tmp_path / "corpus.jsonl"
    with corpus.open("w") as lines:
        for number in range(COUNT):
            words = " ".join(chance.choice(source) for _ in range(4)).split()[: 1 + number % 30]
            lines.write(json.dumps({"id": f"d{number}", "contents": " ".join(words)}) + "\n")
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    log = tmp_path / "log"
    process = encode(root, corpus, tmp_path / "undisturbed" / "vectors", log)
    assert process.wait() == 0, log.read_text()

    output, killed_after = tmp_path / "killed" / "vectors", []
    windows = COUNT // WINDOW
    for kill in range(KILLS):
        process = encode(root, corpus, output, log)
        # Somewhere in the next stretch of the job, and not at the moment at which a part is finished.
        wanted = chance.randint(kill * windows // (KILLS + 1), (kill + 1) * windows // (KILLS + 1))
        while process.poll() is None and len(list(output.glob("*"))) < wanted:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, log.read_text()
        killed_after.append(len(list(output.glob("*"))))
    process = encode(root, corpus, output, log)
    assert process.wait() == 0, log.read_text()

    expected, found = content(tmp_path / "undisturbed"), content(tmp_path / "killed")
    print(f"killed after {killed_after} of {windows} parts; {log.read_text().strip()}")
    assert sorted(killed_after) == killed_after
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    ids = [
        json.loads(line)["id"] for name in sorted(found) if "/embeddings" in name for line in found[name].splitlines()
    ]
    assert ids == [f"d{number}" for number in range(COUNT)]
