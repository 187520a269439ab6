"""Errors of other libraries, raised by themselves at each seam, become ours by one table: nothing is "unexpected"."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import DataError, LlmSparseError, ResourceError, RunError, UsageError, explained
from pyserini_llm_sparse.plugin import command_line, drift


def no_file(folder: Path) -> None:
    (folder / "none").read_text()


def full_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(folder / "vectors"))


def no_host(folder: Path) -> None:
    import urllib.request

    urllib.request.urlopen("http://nowhere.invalid/", timeout=5)


def no_download(folder: Path) -> None:
    import requests

    requests.get("http://127.0.0.1:9/", timeout=5)


def offline_hub(folder: Path) -> None:
    import huggingface_hub

    huggingface_hub.hf_hub_download("org/none", "config.json", cache_dir=folder, local_files_only=True)


def bad_weights(folder: Path) -> None:
    from safetensors import safe_open

    (folder / "w").write_bytes(b"weights")
    safe_open(folder / "w", "np")


def bad_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer

    (folder / "tokenizer.json").write_text("{}")
    Tokenizer.from_file(str(folder / "tokenizer.json"))


def bad_adapter(folder: Path) -> None:
    from peft import PeftConfig

    (folder / "adapter_config.json").write_text('{"peft_type": "NONE"}')
    PeftConfig.from_pretrained(str(folder))


def bad_config(folder: Path) -> None:
    from transformers import AutoConfig

    (folder / "config.json").write_text('{"model_type": "none"}')
    AutoConfig.from_pretrained(str(folder))


def bad_graph(folder: Path) -> None:
    import onnxruntime

    (folder / "model.onnx").write_bytes(b"graph")
    onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def bad_json(folder: Path) -> None:
    json.loads("{")


def bad_bytes(folder: Path) -> None:
    b"\xff".decode()


def no_home(folder: Path) -> None:
    raise RuntimeError("Could not determine home directory.")


class JavaError(Exception):
    """What pyjnius raises has this attribute."""

    classname = "org/apache/lucene/index/CorruptIndexException"
    innermessage = "checksum failed"


def bad_index(folder: Path) -> None:
    raise JavaError("JVM exception occurred: checksum failed org.apache.lucene.index.CorruptIndexException")


@pytest.mark.parametrize(
    ("failing", "kind", "says"),
    [
        (no_file, ResourceError, "none: cannot be read or written: No such file"),
        (full_disk, ResourceError, "vectors: cannot be read or written: No space left on device; make room"),
        (no_host, ResourceError, "network: "),
        (no_download, ResourceError, "network: "),
        (offline_hub, ResourceError, "network: "),
        (bad_weights, DataError, "safetensors: "),
        (bad_tokenizer, DataError, "tokenizers: "),
        (bad_adapter, DataError, "peft: "),
        (bad_config, DataError, "transformers: "),
        (bad_graph, RunError, "ONNX Runtime: "),
        (bad_json, DataError, "a file: damaged"),
        (bad_bytes, DataError, "a file: damaged"),
        (no_home, ResourceError, "home: there is none"),
        (
            bad_index,
            DataError,
            "Java: org.apache.lucene.index.CorruptIndexException: checksum failed: the index is damaged or not whole; ",
        ),
    ],
)
def test_an_error_of_another_library_is_one_of_ours_in_one_line(
    failing: Callable[[Path], None], kind: type[LlmSparseError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:  # whatever the library raises
        failing(tmp_path)
    found = explained(caught.value)
    assert type(found) is kind and says in str(found) and "\n" not in str(found) and "; " in str(found)


def test_our_own_errors_stay_and_our_own_bugs_are_no_one_else_s() -> None:
    own = UsageError("a: b: c; d")
    assert explained(own) is own
    with pytest.raises(KeyError) as caught:
        _ = {}["bug"]  # type: ignore[var-annotated]
    assert explained(caught.value) is None


def test_a_command_ends_with_the_line_and_code_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        no_download(tmp_path)

    monkeypatch.setattr("pyserini_llm_sparse.cli.options.load_encoder", fail)
    assert main(["encode", "--corpus", "c.jsonl", "--output", str(tmp_path / "v")]) == 4
    errors = capsys.readouterr().err
    assert "error: network: " in errors and "unexpected" not in errors


def test_what_is_wrong_with_the_machine_is_no_change_of_pyserini(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(drift, "problems", [])
    monkeypatch.setattr(sys, "argv", ["program"])
    for failing in (no_home, full_disk):
        with drift.contained("pyserini.encode", "encode"):
            failing(tmp_path)
    assert len(drift.problems) == 2 and not any("does not fit" in problem for problem in drift.problems)


def test_pyserini_s_commands_end_with_the_same_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command_line, "running_command", "pyserini.encode")
    with pytest.raises(SystemExit) as ended, command_line.one_line_errors():
        bad_weights(tmp_path)
    assert ended.value.code == 5
    assert capsys.readouterr().err.startswith("safetensors: the weights cannot be read: ")
