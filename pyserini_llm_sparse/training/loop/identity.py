"""The identity of a run: settings, data, model and batch, on which its result depends and which stay when it goes on.

A field that decides nothing about the result, such as how often something is logged, may change from one part of a run
to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainingArguments

# Of TrainingArguments, beginnings of the names of those that decide nothing.
_FREE = (
    "activation_checkpointing", "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "ddp_", "debug", "disable_tqdm", "enable_jit_checkpoint", "gradient_checkpointing",
    "hub_", "include_num_input_tokens_seen", "log_", "logging_", "per_device_eval_batch_size", "project", "report_to",
    "run_name", "save_", "skip_memory_metrics", "torch_empty_cache_steps", "trackio_",
)  # fmt: skip
_UNTOLD = {"revision": None}
_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")


def run_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a run file's fields, in JSON's types, those on which the result of the run depends."""
    # Each worker reads a share of a stream, so their number decides in which order the examples come.
    free = tuple(name for name in _FREE if not (fields.get("streaming") and name == "dataloader_num_workers"))
    trainer = {name: value for name, value in (fields.get("trainer") or {}).items() if not name.startswith(free)}
    return {**{name: value for name, value in fields.items() if name != "output"}, "trainer": trainer}


def stands_on(
    arguments: TrainingArguments, model: str, data: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return what the result of a run depends on beside its run file.

    Args:
        arguments: Say how many processes there are, and what a batch is.
        model: The fingerprint of the model that training starts from.
        data: By field of the run file, what `sources.source_fingerprints` returned of its sources.
    """
    return {
        "processes": arguments.world_size,
        **{name: getattr(arguments, name) for name in _BATCH},
        "model_fingerprint": model,
        **{f"{field} data": _by_name(files) for field, files in data.items()},
    }


def known_of_both(now: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return both of two identities without what only one knows: a fact of a later version, an untold revision."""
    names = now.keys() & before.keys()
    found: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name in names:
        one, other = now[name], before[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            untold = {source for each in (one, other) for source, facts in each.items() if facts == _UNTOLD}
            one, other = ({k: v for k, v in each.items() if k not in untold} for each in (one, other))
        found[0][name], found[1][name] = one, other
    return found


def _by_name(files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is known of each file or dataset, under a name that tells it in a message."""
    found: dict[str, Any] = {}
    for number, file in enumerate(files):
        source, name = str(file["source"]), str(file.get("name", ""))
        shown = source if not name or source.endswith(name) else f"{source}/{name}"
        shown = shown if shown not in found else f"{shown} ({number})"
        found[shown] = {what: file[what] for what in ("bytes", "sha256", "revision") if what in file}
    return found
