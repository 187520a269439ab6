"""With transformers before 5.2: attention in both directions, and rotary positions that version 5 has saved."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor

from pyserini_llm_sparse.modelling.backbone import older_transformers
from pyserini_llm_sparse.modelling.backbone.language_model import Backbone, set_attention
from pyserini_llm_sparse.modelling.backbone.older_transformers import read_rope_parameters
from pyserini_llm_sparse.modelling.backbone.probing import probe
from tests.checkpoints import FAMILIES, causal_model

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0], [3, 0, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def states(model: transformers.PreTrainedModel, attention: str, mask: Tensor = MASK) -> Tensor:
    with torch.no_grad():
        hidden = Backbone(model, attention).hidden(IDS, mask)  # type: ignore[arg-type]
    return hidden * mask[..., None]


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(older_transformers, "KNOWS_DIRECTION", (1000, 0))
    monkeypatch.setattr(older_transformers, "READS_ROPE_PARAMETERS", (1000, 0))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_mask_of_four_dimensions_goes_both_ways(family: str, implementation: str, older: None) -> None:
    model = causal_model(family, 100)
    model.set_attn_implementation(implementation)
    set_attention(model, "causal")
    causal = states(model, "causal")
    probe(Backbone(model, "causal"))
    set_attention(model, "bidirectional")
    probe(Backbone(model, "bidirectional"))
    bidirectional = states(model, "bidirectional")
    assert (bidirectional - causal).abs().amax() > 0.1
    for row, length in enumerate(MASK.sum(1)):
        with torch.no_grad():
            alone = model.base_model(input_ids=IDS[row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(bidirectional[row, :length], alone[0], atol=1e-5, rtol=0)
    set_attention(model, "causal")
    torch.testing.assert_close(states(model, "causal"), causal, atol=0, rtol=0)


@pytest.mark.skipif(
    older_transformers.transformers_version() < (5, 2), reason="transformers before 5.2 knows one way only"
)
def test_it_gives_what_later_versions_give(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal_model("qwen3", 100)
    set_attention(model, "bidirectional")
    expected = states(model, "bidirectional")
    monkeypatch.setattr(older_transformers, "KNOWS_DIRECTION", (1000, 0))
    set_attention(model, "bidirectional")
    assert model.base_model._forward_pre_hooks
    torch.testing.assert_close(states(model, "bidirectional"), expected, atol=1e-5, rtol=0)


def test_saved_rotary_positions_are_read(older: None) -> None:
    plain = SimpleNamespace(rope_parameters={"rope_type": "default", "rope_theta": 5e5}, rope_theta=1e4)
    read_rope_parameters(plain)
    assert plain.rope_theta == 5e5 and plain.rope_scaling is None
    scaled = SimpleNamespace(rope_parameters={"rope_type": "linear", "rope_theta": 2e4, "factor": 4.0})
    read_rope_parameters(scaled)
    assert scaled.rope_theta == 2e4 and scaled.rope_scaling == {"rope_type": "linear", "factor": 4.0}
    own = SimpleNamespace(rope_theta=7.0)
    read_rope_parameters(own)
    assert vars(own) == {"rope_theta": 7.0}


def test_rotary_positions_that_differ_from_layer_to_layer_are_refused(older: None) -> None:
    with pytest.raises(ValueError, match="one kind of rotary positions"):
        read_rope_parameters(SimpleNamespace(rope_parameters={"full_attention": {"rope_theta": 1e6}}))
