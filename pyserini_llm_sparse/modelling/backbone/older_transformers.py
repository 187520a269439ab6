"""Stand-ins for what transformers before 5.2 lacks: attention in both directions, rotary positions as version 5 saves.

optimum's exporter needs transformers 4.57 (``docs/onnx.md``), and both would silently give other vectors there.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
import transformers
from torch import Tensor

KNOWS_DIRECTION = (5, 2)  # the first version that reads `is_causal` from a configuration
READS_ROPE_PARAMETERS = (5, 0)

_HOOKED: WeakSet[torch.nn.Module] = WeakSet()


def transformers_version() -> tuple[int, int]:
    """Return the first two numbers of the version of transformers."""
    major, minor = transformers.__version__.split(".")[:2]
    return int(major), int(minor)


def obey_direction(body: torch.nn.Module) -> None:
    """Make a model without its output layer attend as ``config.is_causal`` says, whatever transformers' version.

    All versions take a mask of four dimensions as it stands. Flash attention does not; the probe at load says so.
    """
    if transformers_version() < KNOWS_DIRECTION and body not in _HOOKED:
        body.register_forward_pre_hook(_with_mask_of_both_directions, with_kwargs=True)
        _HOOKED.add(body)


def read_rope_parameters(config: Any) -> None:
    """Take rotary positions from a configuration that transformers 5 saved.

    Raises:
        ValueError: They differ from layer to layer, which no earlier version can express in this form.
    """
    saved = getattr(config, "rope_parameters", None)
    if transformers_version() >= READS_ROPE_PARAMETERS or not saved:
        return
    parameters = dict(saved)
    if any(isinstance(value, dict) for value in parameters.values()):
        raise ValueError(f"transformers {transformers.__version__} has one kind of rotary positions, not several")
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in parameters:
            setattr(config, name, parameters.pop(name))
    config.rope_scaling = None if parameters.get("rope_type", "default") == "default" else parameters


def _with_mask_of_both_directions(
    body: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace the mask ``[batch, length]`` by one that is added to scores ``[batch, heads, length, length]``."""
    given = {**dict(zip(("input_ids", "attention_mask"), arguments, strict=False)), **named}
    mask: Tensor | None = given.get("attention_mask")
    if getattr(body.config, "is_causal", True) or (mask is not None and mask.dim() != 2):
        return arguments, named
    if mask is None:
        ids: Tensor | None = given.get("input_ids")
        mask = torch.ones_like(given["inputs_embeds"][..., 0] if ids is None else ids)
    hidden = torch.zeros_like(mask, dtype=body.dtype).masked_fill(mask == 0, torch.finfo(body.dtype).min)
    widened = hidden[:, None, None, :]
    if len(arguments) > 1:
        return (arguments[0], widened, *arguments[2:]), named
    return arguments, {**named, "attention_mask": widened}
