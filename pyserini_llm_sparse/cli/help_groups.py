"""The groups of options in the help of a command that has many."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# Of the fields of run files, by name; the first group that has a name counts, an ending * stands for any ending.
GROUPS: dict[str, tuple[str, ...]] = {
    "The run": ("output", "seed", "overwrite", "threads", "help"),
    "Data": ("train", "texts", "corpus", "streaming", "sequence_length", "held_out_texts", "mask_*", "runs"),
    "Model": ("model", "trust_remote_code", "dtype", "attention_implementation", "train_head", "representation",
              "dense_pooling", "query_term_weights", "save", "save_dtype", "teacher", "kind", "encoder"),
    "LoRA": ("lora_*",),
    "Evaluation": ("dev*", "early_stopping_patience", "start_is_candidate", "stop_on_collapse"),
}  # fmt: skip
TRAINER = "Trainer"
VECTORS = "Vectors (the encoding spec)"
OTHERS = "Method"


def group_of(name: str, is_of_spec: bool) -> str:
    """Return the group of a field.

    >>> group_of("lora_rank", False), group_of("query_prefix", True), group_of("objective", False)
    ('LoRA', 'Vectors (the encoding spec)', 'Method')
    """
    for group, names in GROUPS.items():
        if any(name == one or (one.endswith("*") and name.startswith(one[:-1])) for one in names):
            return group
    return VECTORS if is_of_spec else OTHERS


class GroupedCommand(TyperCommand):
    """A command whose options stand in groups, by their ``rich_help_panel``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments and for each group."""
        order = ("Arguments", *GROUPS, OTHERS, VECTORS, TRAINER)
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in order}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                group = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or order[1]
                sections.setdefault(group, []).append(record)
        for name, rows in sections.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows)
