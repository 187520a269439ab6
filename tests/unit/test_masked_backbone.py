"""Masked language models as backbones: states instead of logits, tied weights, positions, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, RunError, UsageError
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone
from pyserini_llm_sparse.modelling.backbone.loading import load_backbone
from pyserini_llm_sparse.modelling.backbone.masked import own_logits, table_positions
from pyserini_llm_sparse.modelling.backbone.probing import probe
from pyserini_llm_sparse.modelling.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pyserini_llm_sparse.modelling.names import SPEC_FILE, ModelReference
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.fields import AdaptConfig
from pyserini_llm_sparse.training.retriever.building import starting_checkpoint
from tests.checkpoints import TEXTS, change_json, checkpoint, copied
from tests.masked_checkpoints import MASKED_FAMILIES, POSITIONS, masked_model
from tests.training_runs import logged, run_config, trainer

IDS = torch.tensor([[2, 9, 40, 12, 3], [2, 50, 3, 0, 0]])
MASK = (IDS != 0).long()


def load(folder: Path | str, **options: Any) -> Checkpoint:
    return load_checkpoint(ModelReference(str(folder)).with_options(**options))


@pytest.mark.parametrize("name", MASKED_FAMILIES)
@torch.no_grad()
def test_states_times_the_output_layer_are_the_logits_and_the_bias_counts_once(name: str) -> None:
    model = masked_model(name)
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    own = Backbone(model, "bidirectional")
    probe(own)
    states = own.hidden(IDS, MASK)
    assert states.shape == (*IDS.shape, own.head_weight.shape[1])
    assert own.head_bias is not None and own.head_bias.abs().max() > 1
    rebuilt = states @ own.head_weight.T + own.head_bias
    torch.testing.assert_close(rebuilt[MASK.bool()], logits[MASK.bool()], atol=1e-4, rtol=0)
    torch.testing.assert_close(own_logits(model, IDS, MASK), logits)
    torch.testing.assert_close(own.hidden(IDS, MASK), states)


def test_a_family_that_scales_its_logits_is_refused() -> None:
    class ScalingForMaskedLM(transformers.BertForMaskedLM):
        def forward(self, *arguments: Any, **options: Any) -> Any:
            output = super().forward(*arguments, **options)
            output.logits = output.logits * 2
            return output

    model = ScalingForMaskedLM(masked_model("bert_splade").config)
    torch.nn.init.uniform_(model.get_output_embeddings().bias, -8, 4)
    with pytest.raises(DataError, match=r"ScalingForMaskedLM.*caps or scales"):
        probe(Backbone(model.eval(), "bidirectional"))


def test_a_bert_that_attends_to_the_left_only_is_found_out() -> None:
    with pytest.raises(RunError, match="attention is not bidirectional"):
        probe(Backbone(masked_model("bert_splade", is_decoder=True), "bidirectional"))


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_positions_are_those_of_the_table_that_texts_can_use(name: str) -> None:
    assert Backbone(masked_model(name), "bidirectional").positions == POSITIONS
    looked_up = None if name == "modernbert_splade" else POSITIONS
    assert table_positions(masked_model(name)) == looked_up


def test_a_text_longer_than_the_positions_is_refused_in_one_line() -> None:
    encoder = SparseEncoder.load(str(checkpoint("roberta_splade")), device="cpu", document_max_length=POSITIONS + 1)
    with pytest.raises(UsageError, match=r"301 tokens: the model has 300 positions; lower .*document_max_length"):
        encoder.encode_documents([" ".join(TEXTS * 30)])


@pytest.mark.parametrize("written", ["the embedding only", "the output layer only", "both"])
def test_tied_weights_need_not_be_stored_twice(tmp_path: Path, written: str) -> None:
    """Checkpoints differ in that, and older ones have parts besides that no encoder needs."""
    folder = copied("bert_splade", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    expected = SparseEncoder.load(str(folder), device="cpu").document_impacts(TEXTS)
    embedding, bias = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
    table = weights.pop(embedding, None)
    table = weights.pop("cls.predictions.decoder.weight", table)
    offset = weights.pop(bias, None)
    offset = weights.pop("cls.predictions.decoder.bias", offset)
    assert table is not None and offset is not None
    if written != "the output layer only":
        weights |= {embedding: table, bias: offset}
    if written != "the embedding only":
        weights |= {"cls.predictions.decoder.weight": table.clone(), "cls.predictions.decoder.bias": offset.clone()}
    weights["bert.pooler.dense.weight"] = torch.zeros(32, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert SparseEncoder.load(str(folder), device="cpu").document_impacts(TEXTS) == expected


def test_a_checkpoint_without_the_transform_before_its_output_layer_is_refused(tmp_path: Path) -> None:
    folder = copied("bert_splade", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "transform" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 4 of the model's weights \(cls\.predictions\.transform"):
        load_backbone(folder, attention="bidirectional")


@pytest.mark.parametrize("name", MASKED_FAMILIES)
def test_without_a_spec_it_is_encoded_as_splade(name: str) -> None:
    found = load(checkpoint(name))
    assert found.spec.replace(model_fingerprint="") == EncodingSpec(
        attention="bidirectional", add_bos=True, add_eos=True, query_max_length=256, document_max_length=256,
        impact_factor=51.2,
    )  # fmt: skip
    assert [found.tokens[token] for token in (found.tokenizer.bos_id, found.tokenizer.eos_id)] == ["[CLS]", "[SEP]"]
    changed = load(checkpoint(name), query_max_length="32", query_top_k=10).spec
    assert (changed.query_max_length, changed.query_top_k, changed.impact_factor) == (32, 10, 51.2)


@pytest.mark.parametrize("attention", ["causal", "echo"])
def test_another_attention_is_refused(attention: str) -> None:
    with pytest.raises(UsageError, match=f"attention={attention}: a masked language model attends in both directions"):
        load(checkpoint("bert_splade"), attention=attention)
    assert load(checkpoint("bert_splade"), attention="bidirectional").spec == load(checkpoint("bert_splade")).spec


def test_a_saved_one_gives_the_same_vectors_under_its_spec(tmp_path: Path) -> None:
    first = SparseEncoder.load(str(checkpoint("bert_splade")), device="cpu", document_top_k=20)
    expected = first.document_impacts(TEXTS)
    spec = save_checkpoint(tmp_path / "again", first.engine.backbone, first.checkpoint.tokenizer, first.spec)
    again = SparseEncoder.load(str(tmp_path / "again"), device="cpu")
    assert again.spec == spec and (tmp_path / "again" / SPEC_FILE).is_file()
    assert again.document_impacts(TEXTS) == expected
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "again")
    assert theirs(input_ids=IDS).logits.shape == (*IDS.shape, first.checkpoint.vocabulary_size)


@pytest.mark.parametrize("fields", [{}, {"lora_rank": 4, "lora_targets": ("query", "value")}], ids=["whole", "lora"])
def test_a_splade_is_trained_under_its_own_contract(tmp_path: Path, fields: dict[str, Any]) -> None:
    # Random weights have all terms, and so scores that a softmax is saturated by.
    arguments = {"max_steps": 12, "learning_rate": 0.02 if fields else 1e-3}
    config = run_config(
        tmp_path, model=str(checkpoint("bert_splade")), trainer=arguments, attention="bidirectional",
        temperature=20.0, query_regulariser_weight=0.0, document_regulariser_weight=0.0, **fields,
    )  # fmt: skip
    start = starting_checkpoint(config)
    config = config.continuing(start.spec)
    run = trainer(config, tmp_path / "run")
    run.train()
    losses = logged(run)
    assert sum(losses[-4:]) < sum(losses[:4])
    merged = run.model.backbone.model.merge_and_unload() if fields else run.model.backbone
    spec = save_checkpoint(tmp_path / "trained", merged, start.tokenizer, config.encoding_spec())
    assert spec.add_bos and spec.add_eos and spec.impact_factor == pytest.approx(51.2)
    trained = SparseEncoder.load(str(tmp_path / "trained"), device="cpu").document_impacts(TEXTS)
    assert trained != SparseEncoder.load(str(checkpoint("bert_splade")), device="cpu").document_impacts(TEXTS)


def test_adaptation_is_refused_in_one_line(tmp_path: Path) -> None:
    for attention in ("causal", "bidirectional"):
        config = AdaptConfig(model=str(checkpoint("bert_splade")), texts=("x",), output=tmp_path / "adapted",
                             objective="masked-next-token", attention=attention)  # fmt: skip
        with pytest.raises(UsageError, match=r"\(BertForMaskedLM\): adaptation predicts next tokens"):
            starting_checkpoint(config)


def test_a_bert_without_its_output_layer_is_refused(tmp_path: Path) -> None:
    masked_model("bert_splade").bert.save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"not a language model with its output layer.*BertModel"):
        load(tmp_path)
    change_json(tmp_path / "config.json", architectures=["BertForSequenceClassification"])
    with pytest.raises(DataError, match=r"BertForSequenceClassification.*\.\.\.ForMaskedLM"):
        load(tmp_path)
