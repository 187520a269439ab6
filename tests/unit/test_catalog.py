"""Encoder names: grammar, which are ours, published models, and what a model directory may not be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pyserini_llm_sparse.errors import DataError, ResourceError, UsageError
from pyserini_llm_sparse.modelling.folder import ModelFolder
from pyserini_llm_sparse.modelling.hub import resolve_folder
from pyserini_llm_sparse.modelling.names import EMBEDDED, is_ours, parse_encoder_name
from pyserini_llm_sparse.modelling.published import PUBLISHED, published
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from tests.checkpoints import change_json, checkpoint, copied
from tests.masked_checkpoints import change_modules


@pytest.mark.parametrize(
    ("name", "model", "overrides"),
    [
        ("csplade", str(EMBEDDED), {}),
        ("CSPLADE", str(EMBEDDED), {}),
        ("csplade,query_top_k=64", str(EMBEDDED), {"query_top_k": "64"}),
        ("csplade:/models/one", "/models/one", {}),
        ("csplade:org/name", "org/name", {}),
        ("csplade:C:\\models\\one", "C:\\models\\one", {}),
        ("org/CSPLADE-qwen3-tiny", "org/CSPLADE-qwen3-tiny", {}),
        ("csplade:org/m,attention=echo,logit_scale=1", "org/m", {"attention": "echo", "logit_scale": "1"}),
        ("csplade:/models/a,b", "/models/a,b", {}),
        ("csplade:org/m,excluded_token_ids=1,2,3", "org/m", {"excluded_token_ids": "1,2,3"}),
        ("csplade:org/m,query_prefix=a, b: ,add_bos=no", "org/m", {"query_prefix": "a, b: ", "add_bos": "no"}),
    ],
)  # fmt: skip
def test_a_name_is_a_model_and_fields(name: str, model: str, overrides: dict[str, str]) -> None:
    reference = parse_encoder_name(name)
    assert (reference.model, reference.overrides) == (model, overrides)


def test_loading_options_are_no_fields_of_the_spec() -> None:
    reference = parse_encoder_name("csplade:org/m,base=org/b,tokenizer=org/t,revision=v1,trust_remote_code=true")
    assert (reference.base, reference.tokenizer, reference.revision) == ("org/b", "org/t", "v1")
    assert reference.trust_remote_code
    assert not reference.overrides
    assert not parse_encoder_name("csplade:org/m").trust_remote_code


@pytest.mark.parametrize(
    "name", ["", "csplade:", "csplade:,attention=echo", "csplade:a,dtype=1,dtype=2", "csplade:attention=echo"]
)
def test_a_name_without_a_model_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"encoder .*;"):
        parse_encoder_name(name)


def test_code_of_strangers_runs_for_a_clear_yes_only() -> None:
    with pytest.raises(UsageError, match="neither true nor false"):
        parse_encoder_name("csplade:org/m,trust_remote_code=perhaps")


@pytest.mark.parametrize(
    "name",
    ["csplade", "csplade:anything", "csplade,add_bos=true", "org/CSPLADE-qwen3-tiny", "utahnlp/laconic-1b",
     "hzeng/Lion-SP-1B-llama3-marco-mntp"],
)  # fmt: skip
def test_names_that_are_ours(name: str) -> None:
    assert is_ours(name)


@pytest.mark.parametrize(
    "name", [None, "", "naver/splade-v3", "facebook/contriever", "/no/such/place", "a\0b", "x" * 5000]
)
def test_names_that_are_not_ours(name: str | None) -> None:
    assert not is_ours(name)


def test_the_encoder_class_makes_any_name_ours() -> None:
    assert is_ours("naver/splade-v3", force=True)
    assert not is_ours(None, force=True)


def test_a_directory_is_ours_by_its_spec_or_its_own_name(tmp_path: Path) -> None:
    plain, named, ours = tmp_path / "csplade-runs" / "contriever", tmp_path / "my-csplade", tmp_path / "model"
    for place in (plain, named, ours):
        place.mkdir(parents=True)
    EncodingSpec(attention="causal").save(ours)
    assert is_ours(str(ours))
    assert is_ours(f"{ours},query_top_k=9")
    assert is_ours(str(named))
    assert not is_ours(str(plain))


def test_a_file_is_never_ours(tmp_path: Path) -> None:
    queries = tmp_path / "csplade-queries.jsonl"
    queries.touch()
    assert not is_ours(str(queries))


def test_contracts_of_published_models_are_specs() -> None:
    for model in PUBLISHED.values():
        assert EncodingSpec(**model.spec).attention == "bidirectional"
    laconic = published("utahnlp/LACONIC-1B")
    assert laconic is not None
    assert not laconic.spec["add_bos"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("encoder_decoder", "encoder-decoder"),
        ("headless", "output layer"),
        ("dense_sentence_transformers", r"Transformer, Pooling.*dense"),
        ("sparse_sentence_transformers", "native layout"),
    ],
)
def test_another_kind_of_model_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        ModelFolder.at(checkpoint(name)).require_language_model()


@pytest.mark.parametrize("name", ["masked_language_model", "without_spec", "splade_sentence_transformers"])
def test_causal_and_masked_language_models_are_taken(name: str) -> None:
    ModelFolder.at(checkpoint(name)).require_language_model()


@pytest.mark.parametrize("types", [("Transformer", "SpladePooling"), ("MLMTransformer", "SpladePooling")])
def test_a_splade_of_sentence_transformers_is_taken_in_either_layout(types: tuple[str, str], tmp_path: Path) -> None:
    """Before version 6 the first module was called MLMTransformer, and its file said nothing of its task."""
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_modules(folder, *(f"sentence_transformers.sparse_encoder.models.{kind}" for kind in types))
    if types[0] == "MLMTransformer":
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 512, "do_lower_case": false}')
    ModelFolder.at(folder).require_language_model()


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("1_SpladePooling/config.json", {"pooling_strategy": "sum"}),
        ("1_SpladePooling/config.json", {"activation_function": "log1p_relu"}),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: ", "document": ""}}),
        ("config_sentence_transformers.json", {"prompts": {"wind": "x"}, "default_prompt_name": "wind"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}),
        ("config.json", {"architectures": ["BertModel"]}),
    ],
)
def test_one_of_sentence_transformers_that_means_other_vectors_is_refused(
    file: str, changes: dict[str, object], tmp_path: Path
) -> None:
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_json(folder / file, **changes)
    with pytest.raises(DataError, match=r"Transformer, SpladePooling.*SpladePooling of max and relu, without prompts"):
        ModelFolder.at(folder).require_language_model()


@pytest.mark.parametrize("types", [("Router", "Normalize"), ("Transformer", "SparseAutoEncoder")])
def test_a_sparse_model_of_another_layout_is_not_called_dense(types: tuple[str, ...], tmp_path: Path) -> None:
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    change_modules(folder, *(f"sentence_transformers.sparse_encoder.models.{kind}" for kind in types))
    with pytest.raises(DataError, match="native layout"):
        ModelFolder.at(folder).require_language_model()


def test_modules_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = copied("splade_sentence_transformers", tmp_path / "model")
    (folder / "modules.json").write_text("[{}]")
    with pytest.raises(DataError, match=r"modules\.json: cannot be read"):
        ModelFolder.at(folder).require_language_model()


def test_pickled_weights_are_refused_with_a_remedy() -> None:
    with pytest.raises(ResourceError, match=r"pytorch_model\.bin.*run code.*save_pretrained"):
        ModelFolder.at(checkpoint("bin_only")).require_language_model()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ResourceError, match="model-00002-of-00002"):
        ModelFolder.at(tmp_path).require_language_model()


def test_an_empty_directory_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"config\.json"):
        ModelFolder.at(tmp_path).require_language_model()


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: cannot be read as JSON"):
        ModelFolder.at(tmp_path).require_language_model()


@pytest.mark.parametrize("model", ["/no/such/model", "./nothing", "a/b/c"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(model: str) -> None:
    with pytest.raises(ResourceError, match="no such model directory"):
        resolve_folder(model)


def test_offline_a_model_that_is_not_cached_is_refused(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its variables once."""
    code = (
        "from pyserini_llm_sparse.modelling.hub import resolve_folder\n"
        "from pyserini_llm_sparse.errors import ResourceError\n"
        "try: resolve_folder('some/model')\n"
        "except ResourceError as error: print(error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "HF_HUB_OFFLINE" in done.stdout, done.stderr
    assert "HF_TOKEN" in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_catalog_is_light() -> None:
    """The start-up hook asks it in processes that need nothing of ours."""
    code = (
        "import sys; from pyserini_llm_sparse.modelling.names import is_ours; is_ours('bm25')\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'tokenizers', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
