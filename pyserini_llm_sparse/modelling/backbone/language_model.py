"""A causal language model with or without an adapter, and its attention mode, or a masked one (BERT, as in SPLADE).

With `masked_backbone` alone in touching transformers.

Attention in both directions is ``config.is_causal = False``, which transformers understands from 5.2 on. Earlier
versions silently ignore it: down to 4.57, which optimum needs, they are given a mask of four dimensions instead, and
are used for encoding alone. A probe at load finds out whatever gives other vectors.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from pyserini_llm_sparse.errors import (
    DataError,
    PrerequisiteError,
    ResourceError,
    RunError,
    UsageError,
    one_line,
    require_version,
)
from pyserini_llm_sparse.modelling.backbone import masked
from pyserini_llm_sparse.modelling.backbone.adapters import merge_adapter
from pyserini_llm_sparse.modelling.backbone.devices import DTYPES, resolve_device, resolve_dtype
from pyserini_llm_sparse.modelling.backbone.older_transformers import obey_direction, read_rope_parameters
from pyserini_llm_sparse.modelling.folder import is_masked
from pyserini_llm_sparse.modelling.spec import Attention

LEAST_TRANSFORMERS = (4, 57)
LEAST_TRANSFORMERS_TO_TRAIN = (5, 2)

_OTHER_FAMILIES = "use a Llama, Mistral, Qwen2 or Qwen3 checkpoint, or for SPLADE a BERT"

_logger = logging.getLogger("pyserini_llm_sparse")


@dataclass(frozen=True)
class Backbone:
    """A language model that gives the states that go into its output layer, and the weights of that layer.

    Attributes:
        model: The transformers model, an adapter merged into it; in training, peft's model around it.
        attention: ``causal`` (echo, too, is causal) or ``bidirectional``.
    """

    model: PreTrainedModel
    attention: Attention

    def __post_init__(self) -> None:
        """Have a masked language model give states instead of logits."""
        if self.is_masked:
            masked.skip_output_layer(self.model)

    @property
    def is_masked(self) -> bool:
        """Whether this is a masked language model: BERT and its relatives."""
        return masked.is_masked_model(_without_adapter(self.model))

    @property
    def head_weight(self) -> Tensor:
        """The output embedding, ``[vocabulary, hidden]``."""
        return self.model.get_output_embeddings().weight

    @property
    def head_bias(self) -> Tensor | None:
        """The output layer's bias ``[vocabulary]``; None for most causal families, there for masked ones."""
        return getattr(self.model.get_output_embeddings(), "bias", None)

    @property
    def ties_embeddings(self) -> bool:
        """Whether the input embedding is the output embedding."""
        return self.model.get_input_embeddings().weight is self.head_weight

    @property
    def vocabulary_size(self) -> int:
        """Rows of the output embedding; can be more than the tokenizer has tokens."""
        return int(self.head_weight.shape[0])

    @property
    def positions(self) -> int | None:
        """How many tokens of a text the model has positions for, or was trained on; None if it does not say."""
        return self._table_positions or getattr(self.model.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    @cached_property
    def _table_positions(self) -> int | None:
        return masked.table_positions(_without_adapter(self.model)) if self.is_masked else None

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the states that go into the output layer, ``[batch, length, hidden]``.

        Positions are counted over what the mask keeps, so a text's states do not depend on the side or amount of its
        padding; a masked language model takes padding on the right only. States of masked positions have no meaning.

        Args:
            input_ids: ``[batch, length]``.
            attention_mask: ``[batch, length]``, 1 for tokens and 0 for padding.

        Raises:
            UsageError: A masked language model has fewer positions than a text has tokens.
        """
        if self.is_masked:
            model, most = _without_adapter(self.model), self._table_positions
            return masked.states_for_output_layer(model, input_ids, attention_mask, most)
        positions = (attention_mask.long().cumsum(-1) - 1).clamp_(min=0)
        # peft's own `base_model` would compute logits.
        model = _without_adapter(self.model)
        states: Tensor = model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        return states


def load_backbone(
    path: str | Path,
    *,
    attention: Attention,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    base: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a causal or masked language model from a directory, merging an adapter into its base.

    Args:
        path: Directory of a model, or of a peft adapter.
        attention: The attention variant of the encoding spec.
        dtype: See `resolve_dtype`.
        device: See `resolve_device`.
        base: Directory of the model that the adapter belongs to; required if `path` is an adapter.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        PrerequisiteError: transformers is too old, or an adapter is given and peft is not installed.
        UsageError: An adapter is given without its base.
        DataError: The weights are incomplete or do not fit the configuration, or the family cannot be used.
        ResourceError: A file is missing, or the model does not fit into the device's memory.
        RunError: The attention mode did not take effect.
    """
    require_transformers()
    place, precision = resolve_device(device), DTYPES[resolve_dtype(dtype, device)]
    if base is None and (Path(path) / "adapter_config.json").is_file():
        raise UsageError(f"{path}: an adapter: its base model is not given; name its directory as base")
    model = _load_model(Path(base or path), attention, precision, trust_remote_code)
    if base is not None:
        model = merge_adapter(model, Path(path))
    try:
        model.to(place)  # type: ignore[arg-type]  # transformers wraps the method and hides its signature
        backbone = Backbone(model.eval().requires_grad_(False), attention)
        probe(backbone)
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{path}: does not fit into the memory of {place} in {precision}; use another device, or dtype bfloat16"
        ) from error
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path}: {type(model).__name__} does not work with the position ids and attention mask that it is given: "
            f"{one_line(error)}; {_remedy(error)}"
        ) from error
    return backbone


def load_trainable_backbone(
    path: str | Path,
    *,
    attention: Attention,
    dtype: str = "float32",
    base: str | Path | None = None,
    trust_remote_code: bool = False,
    attention_implementation: str | None = None,
) -> Backbone:
    """Load a causal or masked language model for training: on the CPU, all weights trainable.

    Args:
        path: Directory of a model, or of a peft adapter, which is merged.
        attention: The attention variant of the encoding spec.
        dtype: Type of the weights.
        base: Directory of the model that the adapter belongs to.
        trust_remote_code: Whether code that comes with the model may run.
        attention_implementation: One of transformers' names; by default its choice.

    Raises:
        LlmSparseError: As `load_backbone` says.
    """
    require_transformers(LEAST_TRANSFORMERS_TO_TRAIN, "training")
    model = _load_model(Path(base or path), attention, DTYPES[dtype], trust_remote_code, attention_implementation)
    if base is not None:
        model = merge_adapter(model, Path(path))
    backbone = Backbone(model.eval(), attention)
    if _is_whole(model) and not str(attention_implementation).startswith("flash"):  # flash attention needs a GPU
        probe(backbone)
    model.requires_grad_(True)
    return backbone


def freeze_head(backbone: Backbone) -> None:
    """Exclude the output layer from training; where it is tied to the input embedding, that one, too."""
    backbone.model.get_output_embeddings().requires_grad_(False)


def with_adapter(
    backbone: Backbone, *, rank: int, alpha: float, dropout: float, targets: Sequence[str], trains_head: bool
) -> Backbone:
    """Put a new LoRA adapter into a backbone: it alone is trained, and the head if that is wanted.

    Raises:
        PrerequisiteError: peft is not installed.
        UsageError: The model has no module of these names.
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise PrerequisiteError("lora_rank: peft is not installed; pip install peft") from error
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # need not be whole
        lora_dropout=dropout,
        target_modules=list(targets),
        task_type=None if backbone.is_masked else TaskType.CAUSAL_LM,
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for attributes that were renamed
            warnings.simplefilter("ignore", FutureWarning)
            adapted: Any = get_peft_model(backbone.model, settings)
    except ValueError as error:
        raise UsageError(f"lora_targets: {one_line(error)}; name modules of the model") from error
    result = Backbone(adapted, backbone.attention)
    if trains_head:
        result.model.get_output_embeddings().requires_grad_(True)
    return result


def checkpoint_activations(backbone: Backbone, **settings: Any) -> None:
    """Recompute activations in the backward pass rather than keep them; `settings` are transformers' own."""
    model = _without_adapter(backbone.model)
    # With frozen embeddings nothing that enters the first layer has a gradient, and reentrant checkpointing has none.
    model.enable_input_require_grads()
    name = "activation_checkpointing_enable" if hasattr(model, "activation_checkpointing_enable") else None
    getattr(model, name or "gradient_checkpointing_enable")(**settings)  # the name before transformers 5.23


def _without_adapter(model: Any) -> Any:
    """Return transformers' model, from peft's model around it where there is one; the adapter's layers stay in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _is_whole(model: PreTrainedModel) -> bool:
    """Tell whether this process holds the weights: FSDP and ZeRO-3 may load them elsewhere, or in parts."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true") and os.environ.get("LOCAL_RANK", "0") != "0":
        return os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "").lower() not in ("1", "true")
    return all(parameter.numel() and not parameter.is_meta for parameter in model.parameters())


def require_transformers(least: tuple[int, int] = LEAST_TRANSFORMERS, need: str = "encoding") -> None:
    """Refuse a transformers that is too old for what is needed of it.

    Raises:
        PrerequisiteError: It is older than `least`.
    """
    require_version("transformers", transformers.__version__, least, need)


def set_attention(model: PreTrainedModel, attention: Attention) -> None:
    """Make a causal language model attend to earlier positions only, or to all; a masked one attends to all anyway."""
    if masked.is_masked_model(model):
        return
    causal = attention != "bidirectional"
    model.config.is_causal = causal
    for module in model.modules():
        if isinstance(getattr(module, "is_causal", None), bool):
            module.is_causal = causal  # type: ignore[assignment]  # for kernels that are given no mask when there is no padding
    obey_direction(model.base_model)


@torch.no_grad()
def probe(backbone: Backbone) -> None:
    """Check on four short sequences that the attention mode and the output layer are what we take them for.

    The first position must change with the last token if attention goes both ways and must not otherwise, with and
    without padding; and the model's own logits must be the hidden states times the output embedding, without a cap or
    scale that some families have.

    Raises:
        RunError: The attention mode did not take effect.
        DataError: The logits are made in another way.
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
    if not bool((own - ours).norm() <= (1e-4 if own.dtype == backbone.head_weight.dtype else 5e-2) * own.norm()):
        raise DataError(
            f"{type(backbone.model).__name__}: its logits are not hidden states times output embedding: the family "
            f"caps or scales them; {_OTHER_FAMILIES}"
        )


def _load_model(
    path: Path,
    attention: Attention,
    dtype: torch.dtype,
    trust_remote_code: bool,
    attention_implementation: str | None = None,
) -> PreTrainedModel:
    """Load the model of a directory, all of its weights or none."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        config.is_causal = attention != "bidirectional"
        read_rope_parameters(config)
        with quiet():
            family: Any = AutoModelForMaskedLM if is_masked(config.to_dict()) else AutoModelForCausalLM
            pair: Any = family.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                attn_implementation=attention_implementation,
                output_loading_info=True,
            )
            model: PreTrainedModel = pair[0]
            loaded: dict[str, Any] = pair[1]
    except OSError as error:
        raise ResourceError(f"{path}: cannot load the model: {one_line(error)}; check the directory") from error
    except (ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise DataError(f"{path}: cannot load the model: {one_line(error)}; {_remedy(error)}") from error
    for problem, names in (("lacks", loaded["missing_keys"]), ("has another shape of", loaded["mismatched_keys"])):
        if names:
            listed = ", ".join(sorted(str(name) for name in names)[:3])
            raise DataError(
                f"{path}: the checkpoint {problem} {len(names)} of the model's weights ({listed}): they would be random"
                "; save the language model together with its output layer"
            )
    if loaded["unexpected_keys"]:
        left_out = len(loaded["unexpected_keys"])
        _logger.warning("%s: %d weights are not part of the model and are left out", path, left_out)
    set_attention(model, attention)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing a progress bar over ours while it reads or writes weights."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _remedy(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "if you trust the code that comes with it, say so by name: csplade:MODEL,trust_remote_code=true"
    return f"{_OTHER_FAMILIES}, complete and in safetensors"
