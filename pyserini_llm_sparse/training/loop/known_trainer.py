"""The version of transformers' Trainer that `phase_trainer` extends, told by the parameters of its methods."""

from __future__ import annotations

import inspect

import transformers
from transformers import Trainer

from pyserini_llm_sparse.errors import PrerequisiteError

# What is overridden, with the parameters that the overriding methods count on.
_OVERRIDDEN = {
    "compute_loss": ("model", "inputs", "return_outputs", "num_items_in_batch"),
    "training_step": ("model", "inputs", "num_items_in_batch"),
    "evaluate": ("eval_dataset", "ignore_keys", "metric_key_prefix"),
    "log": ("logs", "start_time"),
    "_determine_best_metric": ("metrics", "trial"),
    "_get_train_sampler": ("train_dataset",),
    "_save_checkpoint": ("model", "trial"),
    "_save": ("output_dir", "state_dict"),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_load_best_model": (),
}


def require_known_trainer() -> None:
    """Refuse a transformers whose Trainer is not the one that `phase_trainer` was written for.

    Raises:
        PrerequisiteError: A method is missing or has other parameters.
    """
    for name, wanted in _OVERRIDDEN.items():
        method = getattr(Trainer, name, None)
        found = tuple(inspect.signature(method).parameters)[1:] if method else ("missing",)
        if found != wanted:
            raise PrerequisiteError(
                f"transformers {transformers.__version__}: Trainer.{name} is not as this package knows it (parameters "
                f"{', '.join(found) or 'none'}, expected {', '.join(wanted) or 'none'}); install transformers 5.23"
            )
