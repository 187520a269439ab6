"""Gradient caching, accumulation and groups of similar length arrive at the gradient of the whole batch, to 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyserini_llm_sparse.training.objectives.negatives import holds
from pyserini_llm_sparse.training.objectives.ranking import RetrievalObjective
from pyserini_llm_sparse.training.retriever.building import build_model, starting_checkpoint
from pyserini_llm_sparse.training.retriever.gradient_cache import cached_backward
from pyserini_llm_sparse.training.retriever.model import RetrievalModel
from tests.training_runs import FirstGradient, batch, distance, gradient, run_config, trainer

KINDS: dict[str, dict[str, Any]] = {
    "sparse": {},
    "dense": {"representation": "dense", "dense_pooling": "mean", "query_regulariser_weight": 0.0},
    "echo": {"attention": "echo"},
    "inference-free": {"query_encoder": "inference-free", "model": "inference_free", "attention": "bidirectional"},
    "lora": {"lora_rank": 4, "lora_dropout": 0.0, "train_head": True},
    "distillation": {"objective": "contrastive+distillation", "negatives": 2},
}


def loss_of(config: Any, inputs: dict[str, Tensor], queries: Tensor, documents: Tensor, ramp: float = 0.5) -> Tensor:
    rest = {name: inputs[name] for name in ("query_keys", "document_keys")}
    rest["relevant"] = holds(inputs["positive_keys"], inputs["document_keys"])
    teacher = inputs.get("teacher_scores")
    return RetrievalObjective(config)(queries, documents, **rest, teacher_scores=teacher, ramp=ramp)[0]


def texts(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in inputs.items() if name.endswith(("_ids", "_mask"))}


def with_learnable_adapter(model: RetrievalModel) -> RetrievalModel:
    """LoRA's second matrix starts at 0, and the first has no gradient then."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def plain_gradient(model: RetrievalModel, config: Any, inputs: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = loss_of(config, inputs, *model(**texts(inputs)))
    loss.backward()
    return float(loss.detach()), gradient(model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_cached_gradient_is_the_plain_one(kind: str, size: int, tmp_path: Path) -> None:
    config = run_config(tmp_path, **KINDS[kind])
    inputs = batch(config)
    model = with_learnable_adapter(build_model(config)).train()
    wanted_loss, wanted = plain_gradient(model, config, inputs)
    model.zero_grad()
    loss = cached_backward(
        model, texts(inputs), size, lambda *vectors: loss_of(config, inputs, *vectors), lambda part: part.backward(),
        queries_at_once=kind == "inference-free",
    )  # fmt: skip
    assert float(loss) == pytest.approx(wanted_loss, rel=1e-5)
    assert distance(gradient(model), wanted) < 1e-5
    if kind == "inference-free":
        assert float(wanted["query_weights"].norm()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_similar_length_give_the_gradient_of_the_padded_batch(kind: str, tmp_path: Path) -> None:
    config = run_config(tmp_path, **KINDS[kind], length_groups=3)
    inputs = batch(config)
    model = with_learnable_adapter(build_model(config)).train()
    wanted_loss, wanted = plain_gradient(model, config, inputs)
    widths, documents = inputs["document_widths"], inputs["document_attention_mask"]
    assert len(widths) == 3 and sum(widths) < 3 * documents.shape[1]
    model.zero_grad()
    named = {name: value for name, value in inputs.items() if name.startswith(("query_", "document_"))}
    del named["query_keys"], named["document_keys"]
    loss = loss_of(config, inputs, *model(**named))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted_loss, rel=1e-5)
    assert distance(gradient(model), wanted) < 1e-5


@pytest.mark.parametrize("negatives", [1, 2])
def test_the_trainers_loss_knows_positives_that_were_not_drawn(negatives: int, tmp_path: Path) -> None:
    config = run_config(tmp_path, negatives=negatives)
    inputs, model = batch(config), build_model(config)
    run = trainer(config, tmp_path, model)
    with torch.no_grad():
        found = run.compute_loss(model, dict(inputs))
        drawn_only = {**inputs, "positive_keys": inputs["document_keys"][:: 1 + negatives, None]}
        expected, wrong = (loss_of(config, each, *model(**texts(each)), ramp=1.0) for each in (inputs, drawn_only))
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert float(found) != pytest.approx(float(wrong), rel=1e-4)


def test_both_passes_of_gradient_caching_draw_the_same_dropout(tmp_path: Path) -> None:
    config = run_config(tmp_path, lora_rank=4, lora_dropout=0.5)
    inputs = batch(config)
    model = with_learnable_adapter(build_model(config)).train()
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    model.register_forward_hook(
        lambda module, given, found: seen[torch.is_grad_enabled()].extend(
            vectors.detach() for vectors in found if vectors is not None
        )
    )
    before = torch.get_rng_state()
    cached_backward(
        model, texts(inputs), 3, lambda *vectors: loss_of(config, inputs, *vectors), lambda part: part.backward()
    )
    assert len(seen[True]) == len(seen[False]) == 3 + 6
    assert all(torch.equal(first, second) for first, second in zip(seen[False], seen[True], strict=True))
    model(**texts(inputs))
    assert not torch.equal(seen[True][-2], seen[False][0])  # it does draw
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [None, 3])
def test_accumulation_takes_the_mean_of_the_micro_batches(size: int | None, tmp_path: Path) -> None:
    config = run_config(
        tmp_path, gradient_cache_size=size, regulariser_ramp=0.0,
        trainer={"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 1},
    )  # fmt: skip
    first = FirstGradient()
    run = trainer(config, tmp_path, callbacks=[first])
    micro_batches = list(run.get_train_dataloader())[:2]
    reference = build_model(config)
    losses = []
    for inputs in micro_batches:
        losses.append(loss_of(config, inputs, *reference(**texts(inputs)), ramp=1.0))
    (sum(losses) / 2).backward()
    run.train()
    assert distance(first.gradient, gradient(reference)) < 1e-5
    assert run.state.log_history[0]["loss"] == pytest.approx(float(sum(losses).detach()) / 2, rel=1e-5)


def test_accumulation_is_the_whole_batch_where_examples_do_not_meet(tmp_path: Path) -> None:
    alone = {"in_batch_negatives": False, "query_regulariser_weight": 0.0, "document_regulariser_weight": 0.0}
    gradients = []
    for size, steps in ((8, 1), (2, 4)):
        arguments = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 1}
        first = FirstGradient()
        trainer(run_config(tmp_path, trainer=arguments, **alone), tmp_path, callbacks=[first]).train()
        gradients.append(first.gradient)
    assert distance(gradients[1], gradients[0]) < 1e-5


def test_bf16_caching_is_as_near_to_the_plain_gradient_as_bf16_is(tmp_path: Path) -> None:
    gradients = []
    for bf16, size in ((False, None), (True, None), (True, 3)):
        arguments = {"bf16": bf16, "max_steps": 1}
        first = FirstGradient()
        config = run_config(tmp_path, trainer=arguments, gradient_cache_size=size)
        trainer(config, tmp_path, callbacks=[first]).train()
        gradients.append(torch.cat([part.flatten() for part in first.gradient.values()]))
    exact, plain, cached = gradients
    assert float((plain - exact).norm() / exact.norm()) > 1e-4  # it does compute in bf16
    assert float((cached - exact).norm()) < 1.5 * float((plain - exact).norm())


def test_the_last_pass_alone_exchanges_gradients(tmp_path: Path) -> None:
    """DDP's no_sync must be around all passes but one, and every weight must be in that one."""
    from contextlib import contextmanager

    config = run_config(tmp_path, **KINDS["inference-free"])
    model = build_model(config, starting_checkpoint(config))
    inputs = batch(config)
    entered: list[int] = []

    @contextmanager
    def deferred() -> Any:
        entered.append(len(entered))
        yield

    touched: list[bool] = []

    def backward(part: Tensor) -> None:
        model.zero_grad()
        part.backward()
        touched.append(all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad))

    cached_backward(
        model, texts(inputs), 5, lambda *vectors: loss_of(config, inputs, *vectors), backward,
        deferred=deferred, queries_at_once=True,
    )  # fmt: skip
    assert len(touched) == 4 and len(entered) == 3
    assert touched[-1]
