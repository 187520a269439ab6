"""The probe of a backbone: whether attention and output layer are what we take them for."""

from __future__ import annotations

import torch
import transformers

from pyserini_llm_sparse.errors import DataError, RunError
from pyserini_llm_sparse.modelling.backbone import masked
from pyserini_llm_sparse.modelling.backbone.language_model import OTHER_FAMILIES, Backbone


@torch.no_grad()
def probe(backbone: Backbone) -> None:
    """Check on four short sequences that the attention mode and the output layer are what we take them for.

    The first position must change with the last token if attention goes both ways and must not otherwise, with and
    without padding; and the model's own logits must be the hidden states times the output embedding, without a cap or
    scale that some families have.

    Raises:
        RunError: The attention mode did not take effect.
        DataError: The logits are made in another way, or a number is not finite.
    """
    ids = (torch.arange(8) * 7 + 3) % backbone.vocabulary_size
    input_ids = ids.repeat(4, 1)
    input_ids[1::2, -1] = input_ids[0, 0]
    input_ids = input_ids.to(backbone.device)
    tolerance = 1e-5 if backbone.head_weight.dtype == torch.float32 else 2e-3
    wanted = backbone.attention == "bidirectional"
    for padded in (False, True):
        mask = torch.ones_like(input_ids)
        mask[2:, :3] = 0 if padded else 1
        states = backbone.hidden(input_ids, mask).float()
        if not bool(torch.isfinite(states[mask.bool()]).all()):
            raise not_finite(backbone, "its states")
        for first, second, place in ((0, 1, 0), (2, 3, 3 if padded else 0)):
            change = (states[first, place] - states[second, place]).norm() / states[first, place].norm()
            if bool(change > tolerance) != wanted:
                raise RunError(
                    f"{type(backbone.model).__name__}: attention is not {backbone.attention} although it was set: the "
                    f"first position {'ignores' if wanted else 'sees'} the last token (transformers "
                    f"{transformers.__version__}, torch {torch.__version__}, attention "
                    f"{backbone.model.config._attn_implementation}); install transformers 5.2 or newer and report this"
                )
    mask = torch.ones_like(input_ids)
    if backbone.is_masked:
        own = masked.own_logits(backbone.model, input_ids[:1], mask[:1]).float()
    else:
        own = backbone.model(input_ids=input_ids[:1], attention_mask=mask[:1], use_cache=False).logits.float()
    bias = 0 if backbone.head_bias is None else backbone.head_bias.float()
    ours = backbone.hidden(input_ids[:1], mask[:1]).float() @ backbone.head_weight.float().T + bias
    if not bool(torch.isfinite(own).all()):
        raise not_finite(backbone, "its logits")
    if not bool((own - ours).norm() <= (1e-4 if own.dtype == backbone.head_weight.dtype else 5e-2) * own.norm()):
        raise DataError(
            f"{type(backbone.model).__name__}: its logits are not hidden states times output embedding: the family "
            f"caps or scales them; {OTHER_FAMILIES}"
        )


def not_finite(backbone: Backbone, what: str) -> DataError:
    """Return the error for numbers that are not finite: it names the weights that are not, or the type that overflows.

    Args:
        backbone: The model.
        what: What is not finite (``a weight``).
    """
    where, dtype = type(backbone.model).__name__, backbone.head_weight.dtype
    bad = [name for name, tensor in backbone.model.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        return DataError(
            f"{where}: {what} are not finite: {len(bad)} of its tensors hold NaN or infinity ({', '.join(bad[:3])}): "
            f"the files are damaged, {dtype} is too small for them, or training diverged; restore the model"
        )
    return DataError(
        f"{where}: {what} are not finite: the model overflows in {dtype}; encode with dtype float32, or bfloat16 on a "
        "GPU"
    )
