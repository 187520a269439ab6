"""Checkpoints: where the spec comes from, what a save keeps, the fingerprint, and damaged files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, ResourceError, SpecMismatchError, UsageError
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pyserini_llm_sparse.modelling.fingerprint import fingerprint
from pyserini_llm_sparse.modelling.names import SPEC_FILE, ModelReference, parse_encoder_name
from pyserini_llm_sparse.modelling.query_table import QUERY_TERM_WEIGHTS_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.modelling.tokenizer import TextTokenizer
from pyserini_llm_sparse.modelling.torch_engine import TorchLoader
from tests.checkpoints import (
    TEXTS,
    causal_model,
    change_json,
    checkpoint,
    copied,
    native,
    transformers_tokenizer,
    vocabulary_size,
)

SIZE = vocabulary_size()


def load(folder: Path | str, **options: Any) -> Checkpoint:
    return load_checkpoint(ModelReference(str(folder)).with_options(**options))


def test_the_spec_in_the_directory_is_taken_with_a_fingerprint() -> None:
    found = load(checkpoint("mistral_echo"))
    assert found.spec == EncodingSpec.load(checkpoint("mistral_echo"))
    assert found.spec.model_fingerprint.startswith("sha256:")


def test_named_fields_replace_those_of_the_directory() -> None:
    name = f"csplade:{checkpoint('llama_causal')},attention=echo,logit_scale=0.5,document_top_k=none,add_bos=false"
    spec = load_checkpoint(parse_encoder_name(name)).spec
    assert (spec.attention, spec.logit_scale, spec.document_top_k, spec.add_bos) == ("echo", 0.5, None, False)
    assert load(checkpoint("llama_causal"), excluded_token_ids="3,5").spec.excluded_token_ids == (3, 5)


def test_a_causal_checkpoint_without_a_spec_is_refused_with_what_to_type() -> None:
    with pytest.raises(DataError, match=r"type 'llama'\) without encoding_spec\.json.*csplade:.*,attention=causal"):
        load(checkpoint("without_spec"))


def test_naming_the_attention_makes_a_spec_that_lists_the_special_tokens() -> None:
    spec = load(checkpoint("without_spec"), attention="bidirectional").spec
    assert spec.attention == "bidirectional"
    assert spec.add_bos
    assert spec.excluded_token_ids == (0, 1, 2)


def test_naming_another_field_is_not_enough() -> None:
    with pytest.raises(DataError, match="without"):
        load(checkpoint("without_spec"), logit_scale="1")


@pytest.mark.parametrize("field", ["attentoin", "model_fingerprint", "dtype"])
def test_an_unknown_field_is_refused_with_the_known_ones(field: str) -> None:
    with pytest.raises(UsageError, match=rf"{field}=x: no such field.*attention.*trust_remote_code"):
        load(checkpoint("llama_causal"), **{field: "x"})


def test_an_impossible_value_is_refused() -> None:
    with pytest.raises(DataError, match="attention"):
        load(checkpoint("llama_causal"), attention="sideways")


def test_a_published_models_contract_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its hub id only; here the hub's cache is the working directory."""
    copied("without_spec", tmp_path / "hzeng" / "Lion-SP-1B-llama3-marco-mntp")
    monkeypatch.chdir(tmp_path)
    spec = load("hzeng/Lion-SP-1B-llama3-marco-mntp").spec
    assert spec.attention == "bidirectional"
    assert spec.logit_scale == pytest.approx(48**-0.25)
    assert (spec.query_max_length, spec.document_max_length, spec.excluded_token_ids) == (64, 192, ())


def test_a_model_without_tokenizer_takes_a_named_one() -> None:
    with pytest.raises(ResourceError, match="tokenizer=PATH_OR_HUB_ID"):
        load(checkpoint("without_tokenizer"), attention="causal")
    found = load(checkpoint("without_tokenizer"), attention="causal", tokenizer=str(checkpoint("without_spec")))
    assert found.tokenizer.bos_id == 0


def test_a_model_in_a_subfolder_takes_the_tokenizer_above_it(tmp_path: Path) -> None:
    """As splade-code-8B is published."""
    copied("without_tokenizer", tmp_path / "model" / "lora")
    transformers_tokenizer().save_pretrained(tmp_path / "model")
    found = load(tmp_path / "model", subfolder="lora", attention="causal")
    assert found.folder == tmp_path / "model" / "lora"
    assert found.tokenizer.bos_id == 0


def test_an_adapter_finds_its_base_and_another_can_be_named(tmp_path: Path) -> None:
    assert load(checkpoint("adapter")).base == checkpoint("without_spec")
    folder = copied("adapter", tmp_path / "adapter")
    change_json(folder / "adapter_config.json", base_model_name_or_path="/gone/away")
    with pytest.raises(ResourceError, match=r"/gone/away.*base model of the adapter.*base=PATH_OR_HUB_ID"):
        load(folder)
    assert load(folder, base=str(checkpoint("without_spec"))).base == checkpoint("without_spec")
    copied("without_spec", folder / "base")
    change_json(folder / "adapter_config.json", base_model_name_or_path="base")
    assert load(folder).base == folder / "base"


def test_a_base_for_what_is_no_adapter_is_refused() -> None:
    with pytest.raises(UsageError, match="no adapter"):
        load(checkpoint("llama_causal"), base="org/base")


def test_a_saved_checkpoint_gives_the_same_vectors(tmp_path: Path) -> None:
    first = SparseEncoder.load(str(checkpoint("qwen3_echo")))
    spec = save_checkpoint(tmp_path / "again", first.engine.backbone, first.checkpoint.tokenizer, first.spec)
    again = SparseEncoder.load(str(tmp_path / "again"))
    assert again.spec == spec
    assert again.spec.model_fingerprint == first.spec.model_fingerprint
    assert again.document_impacts(TEXTS) == first.document_impacts(TEXTS)


def test_what_is_saved_is_safetensors_and_no_more_than_needed(tmp_path: Path) -> None:
    native(tmp_path / "model", query_encoder="inference-free")
    found = {path.name for path in (tmp_path / "model").iterdir()}
    assert found == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        QUERY_TERM_WEIGHTS_FILE, SPEC_FILE,
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (tmp_path / "model").iterdir())


def test_saving_replaces_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    native(folder)
    native(folder, attention="echo")
    assert EncodingSpec.load(folder).attention == "echo"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").touch()
    with pytest.raises(UsageError, match="there are files but no checkpoint"):
        native(tmp_path / "letters")


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    native(tmp_path / "model")
    spec = EncodingSpec(attention="causal", query_encoder="inference-free")
    with pytest.raises(UsageError, match=f"not {SIZE} finite numbers"):
        save_checkpoint(
            tmp_path / "model", causal_model("llama", SIZE), transformers_tokenizer(), spec, np.zeros(3, np.float32)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert SparseEncoder.load(str(tmp_path / "model")).document_impacts(["wing"])[0]


def test_query_term_weights_and_spec_belong_together(tmp_path: Path) -> None:
    spec = EncodingSpec(attention="causal")
    with pytest.raises(UsageError, match="inference-free"):
        save_checkpoint(tmp_path / "m", causal_model("llama", SIZE), transformers_tokenizer(), spec, torch.ones(SIZE))


def test_the_fingerprint_names_weights_tokenizer_and_base(tmp_path: Path) -> None:
    def of(folder: Path, base: Path | None = None) -> str:
        return fingerprint(folder, TextTokenizer.from_folder(base or folder), base)

    sharded, base = checkpoint("without_spec"), copied("without_spec", tmp_path / "base")
    save_file(load_sharded(sharded), tmp_path / "whole.safetensors")
    for path in base.glob("*.safetensors*"):
        path.unlink()
    (tmp_path / "whole.safetensors").rename(base / "model.safetensors")
    assert of(base) == of(sharded), "sharding does not matter"
    adapter = of(checkpoint("adapter"), base)
    assert adapter != of(base)
    weights = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name] = weights[name].clone()
    weights[name][-1, -1] += 1
    save_file(weights, base / "model.safetensors")
    assert of(base) != of(sharded)
    assert of(checkpoint("adapter"), base) != adapter
    folder = copied("llama_causal", tmp_path / "bos")
    change_json(folder / "tokenizer_config.json", bos_token="<|end|>")
    assert of(folder) != of(checkpoint("llama_causal"))


def load_sharded(folder: Path) -> dict[str, torch.Tensor]:
    shards = [load_file(path) for path in folder.glob("*.safetensors")]
    assert len(shards) > 1
    return {name: tensor for shard in shards for name, tensor in shard.items()}


def test_files_that_changed_after_the_save_are_refused(tmp_path: Path) -> None:
    folder = copied("llama_causal", tmp_path / "model")
    save_file(load_file(copied("llama_echo", tmp_path / "x") / "model.safetensors"), folder / "model.safetensors")
    assert load(folder).spec.model_fingerprint, "the same weights under another header are the same model"
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, folder / "model.safetensors")
    with pytest.raises(SpecMismatchError, match=r"model_fingerprint is \w{8}\+\w{8} in .*, \w{8}\+\w{8} of the files"):
        load(folder)
    change_json(folder / SPEC_FILE, model_fingerprint="")
    assert load(folder).spec.model_fingerprint


def test_a_weight_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    folder = copied("llama_causal", tmp_path / "model")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"not a whole safetensors file: it ends before the tensor"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x08\0\0\0\0\0\0\0{}"])
def test_a_damaged_weight_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = copied("llama_causal", tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load(folder)


@pytest.mark.parametrize(("name", "file"), [("llama_causal", "model"), ("adapter", "adapter_model")])
def test_a_header_that_contradicts_its_tensors_is_refused_in_one_line(name: str, file: str, tmp_path: Path) -> None:
    from pyserini_llm_sparse.encoder import SparseEncoder

    folder = copied(name, tmp_path / "model")
    change_json(folder / SPEC_FILE, model_fingerprint="")
    path = folder / f"{file}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"F32"', b'"F99"', 1))
    with pytest.raises(DataError, match=r"^[^\n]*: a safetensors file is damaged: [^\n]*; download or copy it again$"):
        SparseEncoder.load(str(folder), device="cpu").encode_documents(["a wing"])


@pytest.mark.parametrize("table", [np.ones(3, np.float32), np.full(SIZE, np.nan, np.float32), np.ones(SIZE)])
def test_a_table_of_another_model_is_refused(tmp_path: Path, table: np.ndarray) -> None:
    from safetensors.numpy import save_file as save_arrays

    folder = copied("inference_free", tmp_path / "model")
    change_json(folder / SPEC_FILE, model_fingerprint="")
    save_arrays({"weights": table}, folder / QUERY_TERM_WEIGHTS_FILE)
    with pytest.raises(DataError, match=f"not {SIZE} finite float32 weights"):
        load(folder)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    folder = copied("inference_free", tmp_path / "model")
    change_json(folder / SPEC_FILE, model_fingerprint="")
    (folder / QUERY_TERM_WEIGHTS_FILE).unlink()
    with pytest.raises(ResourceError, match="inference-free; restore"):
        load(folder)


def test_a_vocabulary_size_that_is_not_the_heads_is_refused(tmp_path: Path) -> None:
    folder = copied("adapter", tmp_path / "adapter")
    found = load(folder)
    found.tokens.append(None)
    with pytest.raises(DataError, match=f"the output layer has {SIZE} rows"):
        TorchLoader(found).load()


def test_a_text_longer_than_the_models_positions_is_announced(caplog: pytest.LogCaptureFixture) -> None:
    load(checkpoint("llama_echo"), document_max_length="300")
    assert "up to 600 tokens, but the model knows 512 positions" in caplog.text


def test_inference_free_queries_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from pyserini_llm_sparse import SparseEncoder\n"
        f"encoder = SparseEncoder.load({str(checkpoint('inference_free'))!r})\n"
        "assert encoder.query_impacts(['the wing of a plane'])[0]\n"
        "print(sorted({'torch', 'transformers', 'peft', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_offline_a_hub_id_is_found_in_the_cache(tmp_path: Path) -> None:
    """In a process of its own, since the hub's library reads its variables once; an export, for it needs no torch."""
    from tests.exports import exported

    model = exported("llama_causal_tied")
    repository = tmp_path / "hub" / "models--some--model"
    shutil.copytree(model, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    code = (
        "from pyserini_llm_sparse import SparseEncoder\n"
        "print(len(SparseEncoder.load('some/model').document_impacts(['the wing'])[0]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    expected = len(SparseEncoder.load(str(model)).document_impacts(["the wing"])[0])
    assert done.stdout.strip() == str(expected), done.stderr
    assert done.stderr == ""
