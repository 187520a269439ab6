"""Backbones: attention modes and their probe, devices and types, and checkpoints that would load as something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.modelling.backbone import loading as backbone_module
from pyserini_llm_sparse.modelling.backbone.devices import resolve_device, resolve_dtype
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone, set_attention
from pyserini_llm_sparse.modelling.backbone.loading import load_backbone, load_trainable_backbone
from pyserini_llm_sparse.modelling.backbone.probing import probe
from tests.checkpoints import FAMILIES, causal_model, change_json, checkpoint, copied


@pytest.mark.parametrize("family", FAMILIES)
def test_the_probe_tells_the_attention_modes_apart(family: str) -> None:
    model = causal_model(family, 100)
    for attention, other in (("causal", "bidirectional"), ("bidirectional", "causal"), ("echo", "bidirectional")):
        set_attention(model, attention)
        probe(Backbone(model, attention))
        with pytest.raises(RunError, match=rf"attention is not {other}.*transformers {transformers.__version__}"):
            probe(Backbone(model, other))


def test_clearing_only_the_modules_flags_is_found_out() -> None:
    """The trap of FIELD: without padding it works, with padding the mask is still causal."""
    model = causal_model("llama", 100)
    for layer in model.base_model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(RunError):
        probe(Backbone(model, "bidirectional"))


def test_a_family_that_caps_its_logits_is_refused() -> None:
    config = transformers.Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5, initializer_range=1.0,
        attn_implementation="eager",
    )  # fmt: skip
    with pytest.raises(DataError, match="caps or scales"):
        probe(Backbone(transformers.Gemma2ForCausalLM(config).eval(), "causal"))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_hidden_states_ignore_padding(implementation: str, attention: str) -> None:
    model = causal_model("qwen2", 100)
    model.set_attn_implementation(implementation)
    set_attention(model, attention)
    own = Backbone(model, attention)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        alone = own.hidden(ids, torch.ones_like(ids))
        for left, right in ((0, 3), (3, 0), (2, 2)):
            padded = torch.nn.functional.pad(ids, (left, right), value=9)
            mask = torch.nn.functional.pad(torch.ones_like(ids), (left, right))
            found = own.hidden(padded, mask)[:, left : left + 4]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_the_saved_attention_mode_does_not_come_before_the_specs() -> None:
    """The checkpoint's configuration says bidirectional; the spec, that it is causal."""
    own = load_backbone(checkpoint("llama_bidirectional"), attention="causal")
    assert own.attention == "causal"
    assert own.model.config.is_causal is True


def test_a_loaded_model_is_frozen_and_does_not_drop_out() -> None:
    own = load_backbone(checkpoint("qwen3_causal"), attention="causal", dtype="bf16", device="cpu")
    assert own.head_weight.dtype == torch.bfloat16
    assert own.head_weight.shape == (own.vocabulary_size, 48)
    assert own.head_bias is None
    assert not own.model.training
    assert not any(parameter.requires_grad for parameter in own.model.parameters())


def test_old_transformers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The object that the module sees: transformers may put another in its own place while it is imported.
    monkeypatch.setattr(backbone_module.transformers, "__version__", "4.56.0")
    with pytest.raises(PrerequisiteError, match=r"transformers 4\.56\.0: too old.*4\.57"):
        load_backbone(checkpoint("llama_causal"), attention="causal")
    monkeypatch.setattr(backbone_module.transformers, "__version__", "5.1.0")
    with pytest.raises(PrerequisiteError, match=r"transformers 5\.1\.0: too old: training needs 5\.2"):
        load_trainable_backbone(checkpoint("llama_causal"), attention="causal")


def test_a_body_without_its_output_layer_is_refused() -> None:
    with pytest.raises(DataError, match=r"lacks 1 of the model's weights \(lm_head\.weight\)"):
        load_backbone(checkpoint("headless"), attention="causal")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = copied("llama_causal", tmp_path / "model")
    change_json(folder / "config.json", intermediate_size=32)
    with pytest.raises(DataError, match=r"cannot load the model|has another shape"):
        load_backbone(folder, attention="causal")


def test_an_unknown_architecture_is_refused_without_running_its_code(tmp_path: Path) -> None:
    folder = copied("llama_causal", tmp_path / "model")
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    change_json(folder / "config.json", model_type="own", auto_map=auto_map)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError, match="trust_remote_code=true"):
        load_backbone(folder, attention="causal")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read() -> None:
    with pytest.raises(ResourceError, match="safetensors"):
        load_backbone(checkpoint("bin_only"), attention="causal")


def test_an_adapter_of_another_base_is_refused() -> None:
    with pytest.raises(DataError, match=r"does not fit its base.*base="):
        load_backbone(checkpoint("adapter"), attention="causal", base=checkpoint("qwen3_causal"))


def test_an_adapter_without_its_base_is_refused() -> None:
    """transformers would load the base by itself and leave the adapter unmerged."""
    with pytest.raises(UsageError, match="base model is not given"):
        load_backbone(checkpoint("adapter"), attention="causal")


def test_a_causal_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises((DataError, RunError), match="MambaForCausalLM"):
        load_backbone(tmp_path, attention="bidirectional")


def test_an_adapter_with_a_lost_weight_is_refused(tmp_path: Path) -> None:
    folder = copied("adapter", tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    lost = sorted(weights)[0]
    del weights[lost]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="1 weights are on one side only"):
        load_backbone(folder, attention="causal", base=checkpoint("without_spec"))


def test_an_adapter_without_peft_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PrerequisiteError, match="pip install"):
        load_backbone(checkpoint("adapter"), attention="causal", base=checkpoint("without_spec"))


def test_the_type_follows_the_device() -> None:
    assert resolve_dtype(None, "cpu") == "float32"
    assert resolve_dtype("auto", "cpu") == "float32"
    assert resolve_dtype("fp16", "cpu") == "float16"
    assert resolve_dtype(torch.bfloat16) == "bfloat16"
    with pytest.raises(UsageError, match="int8"):
        resolve_dtype("int8")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        assert resolve_device(None).type == "cpu"
        with pytest.raises(ResourceError, match="cuda:0"):
            resolve_device("cuda:0")
    with pytest.raises(UsageError, match="unknown to torch"):
        resolve_device("tpu9")


def test_loading_draws_no_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    load_backbone(checkpoint("llama_causal"), attention="causal")
    assert capfd.readouterr().err == ""
