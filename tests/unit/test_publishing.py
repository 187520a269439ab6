"""What is uploaded to the hub: a whole model and its card, nothing that runs code, and nothing that only works here."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from pyserini_llm_sparse.cli.app import main
from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.modelling.publishing import files_to_publish
from tests.checkpoints import change_json, checkpoint


class Hub:
    """Takes the place of the hub's client, and notes what it is asked."""

    asked: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012  # the command makes the instance

    def create_repo(self, repository: str, **options: Any) -> None:
        self.asked.append((repository, options))

    def create_branch(self, repository: str, **options: Any) -> None:
        self.asked.append((repository, options))

    def upload_folder(self, **options: Any) -> SimpleNamespace:
        self.asked.append((options.pop("repo_id"), options))
        return SimpleNamespace(commit_url="https://hub/commit/1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama_causal"), folder)
    (folder / "README.md").write_text("# A card\n")
    (folder / "training").mkdir()
    (folder / "training" / "config.yaml").write_text("train: /home/me/pairs.jsonl\n")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("")
    return folder


def test_a_model_and_its_card_go_up_in_one_commit_and_the_rest_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Hub, "asked", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert main(["push", str(model), "me/it", "--private", "--revision", "try", "--no-training"]) == 0
    printed = capsys.readouterr().err
    assert "3 files left out: .cache/lock, optimizer.pt, training/config.yaml" in printed
    assert "https://hub/commit/1" in printed
    made, branch, upload = Hub.asked
    assert made == ("me/it", {"private": True, "exist_ok": True})
    assert branch == ("me/it", {"branch": "try", "exist_ok": True})
    assert (upload[0], upload[1]["folder_path"], upload[1]["revision"]) == ("me/it", model, "try")
    assert {"README.md", "config.json", "encoding_spec.json", "model.safetensors"} <= set(upload[1]["allow_patterns"])


def test_a_dry_run_lists_the_files_and_asks_nobody(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    assert main(["push", str(model), "me/it", "--dry-run"]) == 0
    assert "training/config.yaml" in capsys.readouterr().out.splitlines()


def test_what_is_no_use_to_others_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="not a model directory"):
        files_to_publish(tmp_path)
    (model / "README.md").unlink()
    with pytest.raises(UsageError, match="no README"):
        files_to_publish(model)
    (model / "README.md").write_text("# A card\n")
    (model / "adapter_config.json").write_text("{}")
    for base in (str(model), "./llama", "~/llama"):
        change_json(model / "adapter_config.json", base_model_name_or_path=base)
        with pytest.raises(DataError, match="a path of this machine"):
            files_to_publish(model)
    change_json(model / "adapter_config.json", base_model_name_or_path="meta-llama/Llama-3.2-1B")
    assert "adapter_config.json" in files_to_publish(model)[0]


def test_a_hub_that_refuses_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Hub):
        def create_repo(self, repository: str, **options: Any) -> None:
            raise PermissionError("Token is required\nto write")

    monkeypatch.setattr(huggingface_hub, "HfApi", Refusing)
    assert main(["push", str(model), "me/it"]) == 4
