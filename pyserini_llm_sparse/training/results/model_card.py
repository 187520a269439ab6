"""The model card of a training result: the metadata of the hub, and what is known of the run in a template.

The template, ``model_card.md.jinja`` beside this module, holds the sentences; this module gathers the facts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from pyserini_llm_sparse.files.settings import read_json
from pyserini_llm_sparse.modelling.names import SPEC_FILE, parse_encoder_name
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.fields import AdaptConfig, ModelConfig, RetrieveConfig
from pyserini_llm_sparse.training.results.card_text import code, escaped, shown
from pyserini_llm_sparse.training.results.provenance import FOLDER, TrainingRecord

CARD_FILE = "README.md"
TEMPLATE = "model_card.md.jinja"
PACKAGE_TAG = "pyserini-llm-sparse"
LICENCE_FIELDS = ("license", "license_name", "license_link")
SPARSE_ONLY = ("logit_scale", "excluded_token_ids", "activation", "query_top_k", "document_top_k", "impact_factor",
               "impact_maximum", "term_naming", "query_term_counts", "query_encoder")  # fmt: skip
SHOWN_SETTINGS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "num_train_epochs",
    "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16",
)  # fmt: skip

Row = tuple[str, ...]


def model_card(record: TrainingRecord, spec: EncodingSpec | None) -> str:
    """Return the text of ``README.md``.

    Args:
        record: What is known of the run; what is not known is left out.
        spec: The encoding spec as saved; None for an adapted language model.
    """
    config = record.config
    base = base_metadata(config.model)
    columns, sources = _sources(record.data)
    body = _environment().get_template(TEMPLATE).render(
        name=config.output.name,
        phase=record.phase,
        config=config,
        spec=spec,
        spec_file=SPEC_FILE,
        folder=FOLDER,
        is_dense=_is_dense(config),
        dev=_development_sets(config),
        base=_shown_name(config.model),
        contract=_contract(spec, config) if spec is not None else [],
        training=_training(record),
        source_columns=columns,
        sources=sources,
        measure_columns=("measure", "value", *(("before", "change (95 %)") if record.changes else ())),
        measures=_measures(record),
        losses=[one for one in record.changes if one.is_loss],
        is_start=record.kept == 0,
        has_log=bool(record.log),
        has_licence="license" in base,
    )  # fmt: skip
    return str(ModelCard(f"---\n{_metadata(record, base).to_yaml(line_break=chr(10))}\n---\n\n{body}"))


def base_metadata(model: str) -> dict[str, Any]:
    """Return what the base model's own card says in its header, and its configuration of its licence.

    Args:
        model: The model as a run file names it: a directory, or a hub id, whose files are looked for in the hub's
            cache only.
    """
    folder = parse_encoder_name(model).model
    card, configuration = (_local_file(folder, name) for name in (CARD_FILE, "config.json"))
    header: dict[str, Any] = {}
    if card is not None:
        try:
            header = huggingface_hub.metadata_load(card) or {}
        except (OSError, ValueError, yaml.YAMLError):
            header = {}  # somebody else's card, which has no header that can be read
    if "license" not in header and configuration is not None:
        header["license"] = (read_json(configuration) or {}).get("license")
    return {name: value for name, value in header.items() if value is not None}


def _local_file(model: str, name: str) -> Path | None:
    """Return a file of a model's directory, or of the hub's snapshot in the cache; None if it is not there."""
    if Path(model).is_dir():
        return path if (path := Path(model) / name).is_file() else None
    if not _is_hub_id(model):
        return None
    cached = huggingface_hub.try_to_load_from_cache(model, name)
    return Path(cached) if isinstance(cached, str) else None


def _is_hub_id(model: str) -> bool:
    return not Path(model).exists() and model.count("/") == 1 and not model.startswith(("/", ".", "~"))


def _metadata(record: TrainingRecord, base: Mapping[str, Any]) -> ModelCardData:
    """Return the header; the base model only if it is on the hub, licence and language as the base model's card."""
    config = record.config
    model = parse_encoder_name(config.model).model
    known: dict[str, Any] = {name: base[name] for name in (*LICENCE_FIELDS, "language") if name in base}
    if _is_hub_id(model):
        known["base_model"] = model
        known["base_model_relation"] = "adapter" if config.save == "adapter" else "finetune"
    elif PACKAGE_TAG in (base.get("tags") or ()) and "base_model" in base:
        known["base_model"] = base["base_model"]  # of the adapted model that this run started from
    library, task, tags = _kind(config)
    return ModelCardData(
        library_name=library,
        pipeline_tag="text-generation" if isinstance(config, AdaptConfig) else "feature-extraction",
        tags=[*(["lora"] if config.save == "adapter" else []), *tags, "pyserini", PACKAGE_TAG],
        model_name=config.output.name if record.measures else None,
        eval_results=_evaluated(record, task) or None,
        **known,
    )


def _kind(config: ModelConfig) -> tuple[str, str, list[str]]:
    """Return the library that loads the result, the task that it is measured on, and the tags of its kind."""
    if isinstance(config, AdaptConfig):
        return "transformers", "text-generation", []
    if _is_dense(config):
        return (
            "sentence-transformers",
            "information-retrieval",
            ["sentence-transformers", "sentence-similarity", "dense"],
        )
    return PACKAGE_TAG, "sparse-information-retrieval", ["sparse-encoder", "sparse", "splade", "csplade"]


def _evaluated(record: TrainingRecord, task: str) -> list[EvalResult]:
    """Return the measures for the header's ``model-index``."""
    config = record.config
    dataset, split = "held-out text", None
    if isinstance(config, RetrieveConfig):
        sets = list(config.dev_sets.values())
        dataset = ", ".join(Path(path).name for path, _ in sets) or "development set"
        split = ", ".join(dict.fromkeys(split for _, split in sets)) or None
    return [
        EvalResult(
            task_type=task,
            task_name=task.replace("-", " "),
            dataset_type=_identifier(dataset),
            dataset_name=dataset,
            dataset_split=split,
            metric_type=_identifier(name),
            metric_name=name.replace("_", " "),
            metric_value=float(_measured(name, value)),
        )
        for name, value in record.measures.items()
    ]


def _development_sets(config: ModelConfig) -> str:
    """Return the names of the development sets with their splits; nothing if there is none."""
    sets = config.dev_sets.values() if isinstance(config, RetrieveConfig) else ()
    return "; ".join(f"{Path(path).name}, {split}" for path, split in sets)


def _measures(record: TrainingRecord) -> list[Row]:
    """Return the measures of the result, and where they are known those of the model before, with the change."""
    known = {one.measure: (_measured(one.measure, one.before), one.interval()) for one in record.changes}
    empty = ("", "") if record.changes else ()
    return [
        (name.replace("_", " "), _measured(name, value), *known.get(name, empty))
        for name, value in record.measures.items()
    ]


def _identifier(name: str) -> str:
    return re.sub(r"[\s_]+", "_", name.strip().lower())


def _measured(name: str, value: float) -> str:
    return f"{value:.1f}" if name.endswith("_terms") else f"{value:.4f}"


def _contract(spec: EncodingSpec, config: ModelConfig) -> list[Row]:
    """Return what defines a vector."""
    is_dense = isinstance(config, RetrieveConfig) and config.representation == "dense"
    left_out = {"version", *((*SPARSE_ONLY, "model_fingerprint") if is_dense else ())}
    rows: list[Row] = [(name, shown(value)) for name, value in spec.model_dump().items() if name not in left_out]
    if isinstance(config, RetrieveConfig) and is_dense:
        rows.append(("pooling", _pooling(config.dense_pooling)))
    return rows


def _training(record: TrainingRecord) -> list[Row]:
    """Return how the model was trained, and on what machine."""
    config = record.config
    rows: list[Row] = [("objective", _objective(config))]
    if config.lora == "continue":
        rows.append(("LoRA", f"the adapter that it started from, trained on, dropout {config.lora_dropout:g}"))
    elif config.lora_rank is not None:
        rows.append(("LoRA", f"rank {config.lora_rank}, alpha {config.lora_alpha:g}, dropout {config.lora_dropout:g}"))
    if not _is_dense(config):
        rows.append(("output embedding", "trained" if config.trains_head else "not trained"))
    if isinstance(config, RetrieveConfig):
        rows.append(("negatives of a query", str(config.negatives)))
        if not _is_dense(config):
            weights = f"{config.query_regulariser_weight:g} queries, {config.document_regulariser_weight:g} documents"
            rows.append(("regulariser", f"{config.regulariser}: {weights}"))
    rows += [(name, shown(config.trainer[name])) for name in SHOWN_SETTINGS if name in config.trainer]
    rows += [(str(name), shown(value)) for name, value in record.facts.items()]
    rows.append(("seed", str(config.seed)))
    if record.seconds is not None:
        rows.append(("wall time", _duration(record.seconds)))
    environment = record.environment
    if "device" in environment:
        processes = environment.get("processes", 1)
        rows.append(("hardware", (f"{processes} x " if processes != 1 else "") + str(environment["device"])))
    versions = [f"{name} {environment[name]}" for name in ("pyserini_llm_sparse", "torch", "transformers")
                if name in environment]  # fmt: skip
    if versions:
        rows.append(("software", ", ".join(versions)))
    return rows


def _objective(config: ModelConfig) -> str:
    if isinstance(config, AdaptConfig):
        return f"{config.objective}, sequences of {config.sequence_length} tokens"
    if not isinstance(config, RetrieveConfig):
        return ""
    parts: list[str] = [config.objective]
    if config.uses_teacher:
        parts.append(f"distillation by {config.distillation}")
    if config.uses_contrast:
        parts.append(f"temperature {config.score_temperature:g}")
    return ", ".join(parts)


def _sources(data: Sequence[Mapping[str, Any]]) -> tuple[Row, list[Row]]:
    """Return header and rows of the table of data sources: names without folders, and what else is known."""
    columns = [name for name in ("examples", "texts", "bytes", "revision") if any(name in source for source in data)]
    rows = [
        (
            code(_shown_name(str(source.get("name", "")))),
            *(shown(source[name]) if name in source else "" for name in columns),
        )
        for source in data
    ]
    return ("data", *columns), rows


def _is_dense(config: ModelConfig) -> bool:
    return isinstance(config, RetrieveConfig) and config.representation == "dense"


def _shown_name(name: str) -> str:
    """Return a hub id as it is, and of a path the last part: folders of one machine say nothing on another."""
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()
    return Path(name).name if is_path and ":" not in name else name


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _environment() -> Environment:
    """Return the template engine, which escapes for Markdown whatever is put into the template."""
    environment = Environment(
        loader=PackageLoader("pyserini_llm_sparse.training.results", ""),
        autoescape=True,
        finalize=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    return environment


def _pooling(kind: str) -> str:
    return "mean of L2-normalised states" if kind == "normalised-mean" else f"{kind}, then L2-normalised"
