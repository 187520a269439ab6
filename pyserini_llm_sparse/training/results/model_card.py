"""The model card of a training result: Hub metadata, usage, contract, training and figures, from known facts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pyserini_llm_sparse.modelling.names import SPEC_FILE
from pyserini_llm_sparse.modelling.spec import EncodingSpec
from pyserini_llm_sparse.training.config.fields import AdaptConfig, ModelConfig, RetrieveConfig
from pyserini_llm_sparse.training.results.provenance import FOLDER, TrainingRecord

CARD_FILE = "README.md"
PACKAGE_TAG = "pyserini-llm-sparse"
LICENCE_FIELDS = ("license", "license_name", "license_link")
SPARSE_ONLY = ("logit_scale", "excluded_token_ids", "activation", "query_top_k", "document_top_k", "impact_factor",
               "impact_maximum", "term_naming", "query_term_counts", "query_encoder")  # fmt: skip
SHOWN_SETTINGS = (
    "learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "num_train_epochs",
    "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "fp16",
)  # fmt: skip


def model_card(record: TrainingRecord, spec: EncodingSpec | None) -> str:
    """Return the text of ``README.md``.

    Args:
        record: What is known of the run; what is not known is left out.
        spec: The encoding spec as saved; None for an adapted language model.
    """
    sections = [
        _heading(record),
        _usage(record.config),
        _contract(spec, record.config) if spec is not None else "",
        _training(record),
        _results(record),
        _limits(record, spec),
    ]
    return f"---\n{_metadata(record.config)}---\n\n" + "\n".join(section for section in sections if section)


def _metadata(config: ModelConfig) -> str:
    """Return the YAML header; the base model only if it is on the hub, the licence only if its own card says it."""
    tags = ["pyserini", PACKAGE_TAG]
    if isinstance(config, AdaptConfig):
        header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    elif _is_dense(config):
        header = {"library_name": "sentence-transformers", "pipeline_tag": "feature-extraction"}
        tags = ["sentence-transformers", "sentence-similarity", "dense", *tags]
    else:
        header = {"library_name": PACKAGE_TAG, "pipeline_tag": "feature-extraction"}
        tags = ["sparse-encoder", "sparse", "splade", "csplade", *tags]
    if config.save == "adapter":
        tags = ["lora", *tags]
    start = _card_header(config.model)
    if not Path(config.model).exists() and config.model.count("/") == 1:
        header["base_model"] = config.model
        header["base_model_relation"] = "adapter" if config.save == "adapter" else "finetune"
    elif PACKAGE_TAG in (start.get("tags") or ()) and "base_model" in start:
        header["base_model"] = start["base_model"]  # of the adapted model that this run started from
    licence = {name: start[name] for name in LICENCE_FIELDS if name in start}
    return yaml.safe_dump({**header, **licence, "tags": tags}, sort_keys=False)


def _card_header(model: str) -> dict[str, Any]:
    """Return the metadata of the card in a model's directory, empty if there is none that can be read."""
    try:
        text = (Path(model) / CARD_FILE).read_text(encoding="utf-8")
        header = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") and text.count("---") > 1 else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return header if isinstance(header, dict) else {}


def _heading(record: TrainingRecord) -> str:
    config = record.config
    name = config.output.name
    base = f"`{_shown_model(config.model)}`"
    if isinstance(config, AdaptConfig):
        return (
            f"# {name}\n\nA causal language model, adapted from {base} ({config.objective}) before it learns to "
            "retrieve. It is a start for `train retrieve`, not a retriever.\n"
        )
    kind = "dense" if _is_dense(config) else "learned sparse"
    form = " LoRA adapter." if config.save == "adapter" else ""
    return (
        f"# {name}\n\nA {kind} retriever made from the causal language model {base}, attention {config.attention}."
        f"{form}\n"
    )


def _usage(config: ModelConfig) -> str:
    if isinstance(config, AdaptConfig):
        return _section(
            "Usage",
            "```bash\npython -m pyserini_llm_sparse train retrieve run.yaml --model PATH_OF_THIS_DIRECTORY\n```",
        )
    if _is_dense(config):
        return _section(
            "Usage",
            "```python\nfrom sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("PATH_OF_THIS_DIRECTORY")\n'
            'queries = model.encode_query(["what is a sparse vector"])\n'
            'documents = model.encode_document(["A sparse vector has few terms."])\n'
            "print(model.similarity(queries, documents))\n```",
        )
    return _section(
        "Usage",
        "```bash\npip install pyserini-llm-sparse\n\n"
        "python -m pyserini.encode \\\n  input   --corpus corpus \\\n  output  --embeddings vectors \\\n"
        "  encoder --encoder PATH_OF_THIS_DIRECTORY\n\n"
        "python -m pyserini.index.lucene --collection JsonVectorCollection \\\n  --input vectors --index index \\\n"
        "  --generator DefaultLuceneDocumentGenerator --threads 2 --impact --pretokenized\n\n"
        "python -m pyserini.search.lucene --impact --encoder PATH_OF_THIS_DIRECTORY \\\n"
        "  --index index --topics queries.tsv --output run.txt\n```",
    )


def _contract(spec: EncodingSpec, config: ModelConfig) -> str:
    """List what defines a vector."""
    left_out = {"version", *(SPARSE_ONLY if _is_dense(config) else ())}
    rows = [(name, _value(value)) for name, value in spec.model_dump().items() if name not in left_out]
    if isinstance(config, RetrieveConfig) and _is_dense(config):
        rows = [row for row in rows if row[0] != "model_fingerprint"]
        rows.append(("pooling", f"{config.dense_pooling}, then L2-normalised"))
        where = "What defines a vector:"
    else:
        where = f"What defines a vector, as in `{SPEC_FILE}`:"
    return _section("Contract", f"{where}\n\n{_table(('field', 'value'), rows)}")


def _training(record: TrainingRecord) -> str:
    config = record.config
    rows: list[tuple[str, str]] = [("objective", _objective(config))]
    if config.lora_rank is not None:
        rows.append(("LoRA", f"rank {config.lora_rank}, alpha {config.lora_alpha:g}, dropout {config.lora_dropout:g}"))
    if not _is_dense(config):
        rows.append(("output embedding", "trained" if config.trains_head else "not trained"))
    if isinstance(config, RetrieveConfig):
        rows.append(("negatives of a query", str(config.negatives)))
        if not _is_dense(config):
            weights = f"{config.query_regulariser_weight:g} queries, {config.document_regulariser_weight:g} documents"
            rows.append(("regulariser", f"{config.regulariser}: {weights}"))
    rows += [(name, _value(config.trainer[name])) for name in SHOWN_SETTINGS if name in config.trainer]
    rows += [(str(name), _value(value)) for name, value in record.facts.items()]
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
    parts = [_table(("", ""), rows)]
    if record.data:
        parts.append(_table(*_sources(record.data)))
    parts.append(
        f"The whole run file, versions, fingerprints of the data and the log are in `{FOLDER}/`"
        + (f"; the log is drawn in `{FOLDER}/training.png`." if record.log else ".")
    )
    return _section("Training", "\n\n".join(parts))


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


def _sources(data: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of the table of data sources: names without folders, and what else is known."""
    columns = [name for name in ("examples", "texts", "bytes", "revision") if any(name in source for source in data)]
    rows = [
        (
            f"`{_shown_model(str(source.get('name', '')))}`",
            *(_value(source[name]) if name in source else "" for name in columns),
        )
        for source in data
    ]
    return ("data", *columns), rows


def _results(record: TrainingRecord) -> str:
    if not record.measures:
        return ""
    title = "Held-out text" if isinstance(record.config, AdaptConfig) else "Development set"
    if isinstance(record.config, RetrieveConfig) and record.config.dev is not None:
        title += f": {record.config.dev.name}, {record.config.dev_split}"
    rows = [(name.replace("_", " "), f"{value:.1f}" if name.endswith("_terms") else f"{value:.4f}")
            for name, value in record.measures.items()]  # fmt: skip
    note = ""
    if isinstance(record.config, RetrieveConfig):
        note = "\n\nMeasured by brute force over the saved model's vectors"
        note += ", quantised as an index holds them." if not _is_dense(record.config) else "."
        if record.config.dev is not None:
            note += " The best checkpoint was chosen by this set, so expect less on others."
    return _section(title, _table(("measure", "value"), rows) + note)


def _limits(record: TrainingRecord, spec: EncodingSpec | None) -> str:
    config = record.config
    lines = []
    if isinstance(config, RetrieveConfig) and spec is not None:
        lines.append(
            f"A query longer than {spec.query_max_length} tokens and a document longer than "
            f"{spec.document_max_length} lose their ends."
        )
        if _is_dense(config) and spec.query_max_length != spec.document_max_length:
            longest = max(spec.query_max_length, spec.document_max_length)
            side = "query" if spec.query_max_length < longest else "document"
            lines.append(
                f"sentence-transformers has one maximum length, {longest}: it does not cut a {side} to "
                f"{min(spec.query_max_length, spec.document_max_length)} tokens as the training did; "
                f"set `model.max_seq_length` before encoding to have the same vectors."
            )
        if config.dev is None:
            lines.append("It was not evaluated while it was trained.")
        if spec.attention == "echo":
            lines.append("Every text goes through the model twice (echo), which doubles the cost.")
    if config.save == "adapter":
        lines.append("The directory holds an adapter only: its base model must be there, unchanged.")
    if "license" not in _card_header(config.model):
        lines.append("Its licence is that of the base model and what the training data allow; check both.")
    return _section("Limits", "\n".join(f"- {line}" for line in lines)) if lines else ""


def _is_dense(config: ModelConfig) -> bool:
    return isinstance(config, RetrieveConfig) and config.representation == "dense"


def _shown_model(name: str) -> str:
    """Return a hub id as it is, and of a path the last part: folders of one machine say nothing on another."""
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists()
    return Path(name).name if is_path and ":" not in name else name


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}\n"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _value(value: Any) -> str:
    """Return a value as a cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if value >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        shown = ", ".join(map(str, value[:8]))
        return f"{shown}, ... ({len(value)} in all)" if len(value) > 8 else shown or "none"
    return f"`{value!r}`" if value != value.strip() or not value else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
