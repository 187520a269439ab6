"""The models that are trained, and what the Trainer makes of a run file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pyserini_llm_sparse.encoder import SparseEncoder
from pyserini_llm_sparse.errors import DataError, PrerequisiteError, ResourceError, RunError, UsageError
from pyserini_llm_sparse.modelling.tokenization import Tokenization
from pyserini_llm_sparse.training.config.arguments import training_arguments
from pyserini_llm_sparse.training.config.fields import AdaptConfig
from pyserini_llm_sparse.training.data.sampling import EpochDataset
from pyserini_llm_sparse.training.loop import phase_trainer
from pyserini_llm_sparse.training.loop.trainer import AdaptationTrainer
from pyserini_llm_sparse.training.objectives.ranking import RetrievalObjective
from pyserini_llm_sparse.training.retriever.building import build_adaptation_model, build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.model import RetrievalModel, TrainableModel
from tests.checkpoints import TEXTS, checkpoint
from tests.training_runs import batch, logged, run_config, trainer


def vectors(model: RetrievalModel, side: str, pad_side: str = "right") -> Tensor:
    """Encode the texts of the tests, an empty one among them."""
    start = starting_checkpoint(model.rebuild.args[0])  # type: ignore[attr-defined]
    tokenization = Tokenization(start.tokenizer, model.spec, start.vocabulary_size)
    inputs = tokenization.batch(tokenization.token_ids([*TEXTS, ""], side), pad_side)  # type: ignore[arg-type]
    with torch.no_grad():
        found = model(**{f"{side}_{name}": tensor for name, tensor in inputs._asdict().items()})
    return found[0 if side == "query" else 1]


def trained_names(model: TrainableModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama_causal", {"attention": "causal"}),
        ("mistral_echo", {"attention": "echo", "pooled_span": "text", "document_prefix": "passage: "}),
        ("qwen3_bidirectional", {"attention": "bidirectional", "logit_scale": 0.3, "add_bos": False}),
        ("spare_ids", {"attention": "causal", "add_bos": False, "excluded_token_ids": (5, 300, 310)}),
        ("adapter", {"attention": "bidirectional"}),
        ("inference_free", {"attention": "bidirectional", "query_encoder": "inference-free"}),
        ("inference_free", {"attention": "echo", "query_encoder": "inference-free", "query_term_counts": False}),
    ],
)
def test_a_model_in_training_gives_the_vectors_that_the_encoder_gives(
    name: str, fields: dict[str, Any], side: str, tmp_path: Path
) -> None:
    config = run_config(tmp_path, name, **fields)
    spec = config.encoding_spec().model_dump(exclude={"version", "model_fingerprint"})
    encoder = SparseEncoder.load(str(checkpoint(name)), device="cpu", **spec)
    encode = encoder.encode_queries if side == "query" else encoder.encode_documents
    wanted = torch.from_numpy(encode([*TEXTS, ""]).matrix.toarray())
    for pad_side in ("right", "left"):
        found = vectors(build_model(config).eval(), side, pad_side)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
        assert not found[-1].any()


@pytest.mark.parametrize("attention", ["causal", "bidirectional", "echo"])
def test_a_dense_vector_is_the_last_token_or_the_mean(attention: str, tmp_path: Path) -> None:
    for pooling in ("last-token", "mean", "normalised-mean"):
        config = run_config(
            tmp_path, f"llama_{attention}", attention=attention, representation="dense", dense_pooling=pooling
        )
        model = build_model(config).eval()
        start = starting_checkpoint(config)
        tokenised = Tokenization(start.tokenizer, model.spec, start.vocabulary_size).token_ids(TEXTS, "document")
        wanted = []
        for ids, pooled in tokenised:  # one by one, without padding
            with torch.no_grad():
                states = model.backbone.hidden(torch.tensor([ids]), torch.ones(1, len(ids)))[0]
            if pooling == "normalised-mean":
                wanted.append(torch.stack([state / state.norm() for state in states[list(pooled)]]).mean(0))
                continue
            kept = states[-1] if pooling == "last-token" else states[list(pooled)].mean(0)
            wanted.append(kept / kept.norm())
        for pad_side in ("right", "left"):
            found = vectors(model, "document", pad_side)
            torch.testing.assert_close(found[:-1], torch.stack(wanted), atol=2e-5, rtol=1e-4)
            assert not found[-1].any()


def test_one_forward_pass_encodes_both_sides(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    model, inputs = build_model(config).eval(), batch(config)
    both = model(**{name: tensor for name, tensor in inputs.items() if "keys" not in name})
    queries = model(
        **{name: tensor for name, tensor in inputs.items() if name.startswith("query_") and "keys" not in name}
    )
    assert torch.equal(both[0], queries[0]) and queries[1] is None
    assert both[0].shape == (8, 422) and both[1].shape == (16, 422)


def test_lora_trains_adapters_only_and_the_head_when_asked(tmp_path: Path) -> None:
    alone = build_model(run_config(tmp_path, lora_rank=4, lora_targets=("q_proj", "v_proj")))
    assert len(trained_names(alone)) == 2 * 2 * 2
    assert all("lora_" in name for name in trained_names(alone))
    with_head = build_model(run_config(tmp_path, lora_rank=4, train_head=True))
    assert {name for name in trained_names(with_head) if "lora_" not in name} == {
        "model.base_model.model.lm_head.weight"
    }


def test_a_tied_head_is_trained_with_the_input_embedding_or_neither(tmp_path: Path) -> None:
    for train_head in (True, False):
        model = build_model(run_config(tmp_path, "qwen3_causal", train_head=train_head))
        assert model.backbone.ties_embeddings
        assert any("embed_tokens" in name for name in trained_names(model)) is train_head
        assert model.backbone.head_weight.requires_grad is train_head


def test_a_dense_model_does_not_train_a_head_that_nothing_uses(tmp_path: Path) -> None:
    model = build_model(run_config(tmp_path, representation="dense"))
    assert not any("lm_head" in name for name in trained_names(model))
    assert any("embed_tokens" in name for name in trained_names(model))
    tied = build_model(run_config(tmp_path, "qwen3_causal", representation="dense"))
    assert any("embed_tokens" in name for name in trained_names(tied))


def test_unknown_lora_targets_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lora_targets: .*nothing"):
        build_model(run_config(tmp_path, lora_rank=2, lora_targets=("nothing",)))


def test_a_learned_table_never_goes_below_zero_and_what_is_zero_stays(tmp_path: Path) -> None:
    config = run_config(tmp_path, "inference_free", attention="bidirectional", query_encoder="inference-free")
    table = torch.ones(422)
    table[16] = 0.0  # the full stop of every query
    model = build_model(config, query_weights=table)
    assert "query_weights" in trained_names(model)
    queries, documents = model(**{name: part for name, part in batch(config).items() if "keys" not in name})
    assert not queries[:, 16].any()
    (queries @ documents.T).sum().backward()
    assert isinstance(model.query_weights, torch.nn.Parameter) and model.query_weights.grad is not None
    assert model.query_weights.grad[16] == 0 and (model.query_weights.grad > 0).any()
    model.query_weights.data.sub_(2)
    assert not model.learned_query_weights().any()  # type: ignore[union-attr]
    fixed = build_model(config.model_copy(update={"query_term_weights": "fixed"}), query_weights=table)
    assert "query_weights" not in trained_names(fixed)
    with pytest.raises(UsageError, match="no table of 422 term weights"):
        build_model(config, query_weights=torch.ones(5))


def test_texts_without_content_do_not_spoil_the_gradient(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    inputs = batch(config)
    for side in ("query", "document"):
        for kind in ("attention", "pool"):
            inputs[f"{side}_{kind}_mask"][0] = 0
    model = build_model(config)
    queries, documents = model(**{name: part for name, part in inputs.items() if "keys" not in name})
    assert not queries[0].any() and not documents[0].any() and documents[1].any()
    (queries.sum() + documents.sum()).backward()
    assert all(part.grad.isfinite().all() for part in model.parameters() if part.grad is not None)
    nothing = torch.zeros(3, 0, dtype=torch.long)
    assert not model(nothing, nothing, nothing)[0].any()


@pytest.mark.parametrize("fields", [{}, {"lora_rank": 4, "lora_dropout": 0.0}])
def test_activation_checkpointing_changes_no_gradient(fields: dict[str, Any], tmp_path: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        run = trainer(
            run_config(tmp_path, trainer={"max_steps": 2, "gradient_checkpointing": checkpointing}, **fields), tmp_path
        )
        run.train()
        layers: Any = run.finished_model().backbone.model  # type: ignore[union-attr]
        assert any(getattr(module, "gradient_checkpointing", False) for module in layers.modules()) is checkpointing
        gradients.append(logged(run) + logged(run, "grad_norm"))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-5)


def test_the_ramp_counts_optimiser_steps(tmp_path: Path) -> None:
    seen: list[float] = []

    class Listening(RetrievalObjective):
        def __call__(self, *vectors: Tensor, ramp: float, **keys: Any) -> Any:
            seen.append(ramp)
            return super().__call__(*vectors, ramp=ramp, **keys)

    arguments = {"max_steps": 4, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
    config = run_config(tmp_path, regulariser_ramp=0.5, trainer=arguments)
    run = trainer(config, tmp_path)
    run.objective = Listening(config)
    run.train()
    assert seen == [0, 0, 0.25, 0.25, 1, 1, 1, 1]


def test_a_run_can_end_before_its_schedule_does(tmp_path: Path) -> None:
    rates = []
    for fields in ({"stop_after_steps": 3}, {}):
        run = trainer(run_config(tmp_path, **fields), tmp_path)
        run.train()
        rates.append(logged(run, "learning_rate"))
    assert len(rates[0]) == 3 and rates[0] == rates[1][:3] and rates[1][3] < rates[0][2]


def test_every_logged_step_has_the_parts_of_its_loss_and_the_health_of_its_vectors(tmp_path: Path) -> None:
    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 3}
    run = trainer(run_config(tmp_path, trainer=arguments), tmp_path)
    run.train()
    steps = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in steps] == [3, 6]
    for entry in steps:
        parts = sum(entry[name] for name in ("contrastive", "query_regulariser", "document_regulariser"))
        assert entry["loss"] == pytest.approx(parts, rel=1e-5)
        assert 0 < entry["query_active_terms"] < 422 and 0 < entry["document_cosine"] < 1
        assert entry["dead_queries"] == entry["dead_documents"] == 0


def test_tensorboard_gets_what_is_logged(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(run_config(tmp_path, trainer={"report_to": ["tensorboard"], "max_steps": 2}), tmp_path / "run")
    run.train()
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    values = [event.value for event in events.Scalars("train/query_active_terms")]
    assert values == pytest.approx(logged(run, "query_active_terms"))


@pytest.mark.parametrize("size", [None, 3])
def test_a_resumed_run_goes_on_to_the_same_losses(size: int | None, tmp_path: Path) -> None:
    """Across the end of an epoch, with dropout: data order, optimiser, schedule, random numbers are all as before."""
    config = run_config(
        tmp_path, lora_rank=4, lora_dropout=0.3, gradient_cache_size=size, negatives=1, trainer={"save_steps": 3}
    )
    whole = trainer(config, tmp_path / "run")
    whole.train()
    resumed = trainer(config, tmp_path / "run")
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert len(logged(whole)) == 6 and whole.state.epoch == pytest.approx(1.5)
    assert logged(resumed) == pytest.approx(logged(whole), rel=1e-6)
    again = trainer(config, tmp_path / "again")
    again.train()
    assert logged(again) == logged(whole)


def test_a_run_that_was_killed_after_its_last_checkpoint_trains_no_step_more(tmp_path: Path) -> None:
    config = run_config(tmp_path, lora_rank=4, trainer={"save_steps": 3, "max_steps": 3})
    whole = trainer(config, tmp_path / "run")
    whole.go_on(None)
    for _ in range(2):
        again = trainer(config, tmp_path / "run")
        again.go_on(str(tmp_path / "run" / "checkpoint-3"))
        assert again.state.global_step == 3 and logged(again) == logged(whole)
        weights = whole._root.trained_weights()
        assert all(torch.equal(weight, weights[name]) for name, weight in again._root.trained_weights().items())


def test_a_checkpoint_holds_what_is_trained_and_nothing_pickled_of_ours(tmp_path: Path) -> None:
    config = run_config(tmp_path, "qwen3_causal", lora_rank=4, trainer={"max_steps": 1, "save_steps": 1})
    run = trainer(config, tmp_path / "run")
    run.train()
    folder = tmp_path / "run" / "checkpoint-1"
    assert set(load_file(folder / "model.safetensors")) == trained_names(run.finished_model())  # type: ignore[arg-type]
    assert not list(folder.glob("*.bin"))
    other = config.model_copy(update={"lora_rank": 2})
    with pytest.raises(DataError, match=r"checkpoint-1: 28 trained weights do not fit this run .*lora_rank"):
        trainer(other, tmp_path / "run").train(resume_from_checkpoint=str(folder))
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        trainer(config, tmp_path / "run").train(resume_from_checkpoint=str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ResourceError, match="cannot be read"):
        trainer(config, tmp_path / "run").train(resume_from_checkpoint=str(folder))


def test_the_run_ends_with_the_best_checkpoint_and_early(tmp_path: Path) -> None:
    kept: list[dict[str, Tensor]] = []
    scores = iter([0.1, 0.2, 0.5, 0.3, 0.2, 0.9])

    def evaluator(model: RetrievalModel) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        kept.append({name: weight.clone() for name, weight in model.trained_weights().items()})
        return {"nDCG@10": next(scores), "documents": 3.0}

    # Saved seldom, and still there.
    steps = {"eval_steps": 1, "save_steps": 5, "max_steps": 6}
    config = run_config(tmp_path, early_stopping_patience=2, trainer=steps)
    run = trainer(config, tmp_path / "run", evaluator=evaluator)
    run.train()
    assert run.state.global_step == 4  # 0.3 and 0.2 are no better than 0.5
    assert logged(run, "eval_nDCG@10") == [0.1, 0.2, 0.5, 0.3, 0.2]
    best = run.finished_model().trained_weights()  # type: ignore[union-attr]
    assert all(torch.equal(best[name], kept[2][name]) for name in best)
    assert not all(torch.equal(best[name], kept[4][name]) for name in best)


def test_killed_before_its_result_was_there_a_run_does_not_go_on_after_its_early_stop(tmp_path: Path) -> None:
    scores = iter([0.1, 0.2, 0.5, 0.3, 0.2])
    config = run_config(tmp_path, early_stopping_patience=2, trainer={"eval_steps": 1, "save_steps": 1, "max_steps": 6})
    run = trainer(config, tmp_path / "run", evaluator=lambda model: {"nDCG@10": next(scores)})
    run.train()
    best = run.finished_model().trained_weights()  # type: ignore[union-attr]
    again = trainer(config, tmp_path / "run", evaluator=lambda model: {"nDCG@10": next(scores)})
    again.go_on(str(tmp_path / "run" / "checkpoint-4"))
    assert again.state.global_step == 4
    found = again.finished_model().trained_weights()  # type: ignore[union-attr]
    assert all(torch.equal(best[name], found[name]) for name in best)


@pytest.mark.parametrize("is_candidate", [True, False])
def test_the_start_is_the_result_if_nothing_is_better(tmp_path: Path, is_candidate: bool) -> None:
    scores = iter([0.5, 0.4, 0.3])
    config = run_config(
        tmp_path, start_is_candidate=is_candidate, trainer={"eval_steps": 1, "max_steps": 2}
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in build_model(config).trained_weights().items()}
    run = trainer(config, tmp_path / "run", evaluator=lambda model: {"nDCG@10": next(scores)})
    run.train()
    assert run.state.best_global_step == (0 if is_candidate else 1)
    after = run.finished_model().trained_weights()  # type: ignore[union-attr]
    assert all(torch.equal(after[name], before[name]) for name in after) is is_candidate


def test_an_evaluation_without_the_wanted_measure_is_refused(tmp_path: Path) -> None:
    run = trainer(run_config(tmp_path, trainer={"eval_steps": 1}), tmp_path, evaluator=lambda model: {"AP": 0.5})
    with pytest.raises(UsageError, match=r"dev_metric: nDCG@10: not measured; measured are AP"):
        run.train()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    model = build_model(config)
    model.backbone.head_weight.data[7] = math.nan
    with pytest.raises(RunError, match=r"step 1: the loss is nan \(.*lower trainer.learning_rate"):
        trainer(config, tmp_path, model).train()


def test_a_collapse_stops_the_run_unless_it_is_told_to_go_on(tmp_path: Path) -> None:
    config = run_config(tmp_path, trainer={"max_steps": 12, "learning_rate": 0.0})
    for stops in (True, False):
        own = config.model_copy(update={"stop_on_collapse": stops})
        model = build_model(own)
        model.backbone.head_weight.data.mul_(0)
        run = trainer(own, tmp_path, model)
        if stops:
            with pytest.raises(RunError, match="the query vectors have died"):
                run.train()
        else:
            run.train()
            assert logged(run, "dead_documents") == [1.0] * 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1}, r"trainer: learning_rat: no argument .* did you mean learning_rate\?"),
        ({"lr_scheduler_type": "round"}, r"trainer: .*round"),
        ({"fsdp": True}, r"one process only"),
    ],
)
def test_wrong_arguments_of_the_trainer_are_refused_in_one_line(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        trainer(run_config(tmp_path, trainer=given), tmp_path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_trained_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="early_stopping_patience: there is nothing to evaluate on; set dev"):
        training_arguments(run_config(tmp_path, early_stopping_patience=1), tmp_path)
    with pytest.raises(UsageError, match="train: 5 examples are fewer than one batch of 8"):
        trainer(run_config(tmp_path), tmp_path, number=5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"report_to": ["wandb"]}, "report_to: wandb: not installed: pip install wandb; install it"),
        ({"report_to": "trackio"}, "report_to: trackio: not installed"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
    ],
)
def test_a_package_that_the_trainer_would_miss_is_named_before_anything_is_read(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError, match=f"trainer: .*{message}"):
        training_arguments(run_config(tmp_path, trainer=given), tmp_path)


def test_a_report_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trainer: report_to: paper: not one of"):
        training_arguments(run_config(tmp_path, trainer={"report_to": ["paper"]}), tmp_path)


def test_a_disk_that_is_full_at_a_checkpoint_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    run = trainer(run_config(tmp_path, trainer={"max_steps": 1}), tmp_path / "run")
    monkeypatch.setattr(phase_trainer, "save_file", full)
    with pytest.raises(ResourceError, match=r"run: disk full: .*free some space and give the same command again"):
        run.train()


class Sequences(EpochDataset[dict[str, Tensor]]):
    """Sequences of random tokens, each followed by its successor."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = self.place(index)[1]
        ids = (torch.arange(13) * (number + 1) + 40) % 400
        return {"input_ids": ids[:-1], "attention_mask": torch.ones(12, dtype=torch.long), "targets": ids[1:]}


def adaptation(folder: Path, **fields: Any) -> AdaptationTrainer:
    arguments = {
        "use_cpu": True, "max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 1, "report_to": [],
        "learning_rate": 1e-3, "eval_steps": 2, "disable_tqdm": True,
    }  # fmt: skip
    config = AdaptConfig(
        output=folder / "result", model=str(checkpoint("llama_causal")), texts=("unused",), attention="causal",
        trainer=arguments, **fields,
    )  # fmt: skip
    return AdaptationTrainer(
        build_adaptation_model(config),
        training_arguments(config, folder, evaluates=True),
        config=config,
        train_dataset=Sequences(),
        eval_dataset=Sequences(),
        data_collator=lambda items: {name: torch.stack([item[name] for item in items]) for name in items[0]},
    )


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_adaptation_learns_both_losses_and_evaluates_held_out_text(weight: float, tmp_path: Path) -> None:
    run = adaptation(tmp_path, sparse_weight=weight)
    before = run.evaluate()["eval_loss"]
    run.train()
    at_start, *after = logged(run, "eval_loss")
    assert before == pytest.approx(at_start) and before > after[0] > after[1]
    for entry in run.state.log_history:
        if "loss" in entry:
            assert entry["loss"] == pytest.approx(entry["next_token"] + entry.get("sparse_next_token", 0.0), rel=1e-5)
            assert ("sparse_next_token" in entry) is (weight > 0)


def test_the_adaptation_loss_is_that_of_the_plain_logits(tmp_path: Path) -> None:
    run = adaptation(tmp_path, sparse_weight=0.5)
    inputs = run.data_collator([Sequences()[place] for place in range(4)])
    language_model: Any = run.finished_model().backbone.model  # type: ignore[union-attr]
    logits = language_model(input_ids=inputs["input_ids"]).logits.flatten(0, 1).double()
    targets = inputs["targets"].flatten()
    plain = torch.nn.functional.cross_entropy(logits, targets)
    sparse = torch.nn.functional.cross_entropy(torch.log1p(torch.relu(logits)), targets)
    found = run.compute_loss(run.model, inputs)
    assert float(found.detach()) == pytest.approx(float((plain + 0.5 * sparse).detach()), rel=1e-5)


def test_training_starts_from_the_embedded_model_by_its_name(tmp_path: Path) -> None:
    config = run_config(tmp_path).model_copy(update={"model": "csplade"})
    assert starting_checkpoint(config).folder.name == "csplade"
    with pytest.raises(UsageError, match="fields of the run file"):
        starting_checkpoint(config.model_copy(update={"model": "csplade,query_max_length=8"}))
