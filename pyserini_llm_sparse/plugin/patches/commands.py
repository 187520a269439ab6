"""Patches of Pyserini's commands, applied only to a command line that asks for our encoder or for help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pyserini_llm_sparse.errors import UsageError
from pyserini_llm_sparse.plugin import command_line
from pyserini_llm_sparse.plugin.command_line import (
    ENCODER_CLASS,
    PyseriniDefault,
    RememberChoice,
    is_ours,
    one_line_errors,
)
from pyserini_llm_sparse.plugin.drift import expect
from pyserini_llm_sparse.plugin.patches.hybrid_weight import warn_of_weight

# Options of pyserini.encode that other kinds of encoders have, and the value that means "not given".
_WITHOUT_MEANING = {
    "multimodal": False, "add_sep": False, "l2_norm": False, "use_openai": False, "explicit_truncate": False,
    "pooling": "cls",
}  # fmt: skip


class ObservedArgparse:
    """Stands in for the ``argparse`` of a command: lets us edit its options and see what was parsed.

    Attributes:
        parsed: The namespaces by sub-command, ``""`` without one.
        added: Names of the options that the command added.
    """

    def __init__(
        self,
        edit: Callable[[argparse.ArgumentParser, str, dict[str, Any]], None],
        complete: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    ) -> None:
        """Observe.

        Args:
            edit: Called with the parser, each option's name and the arguments of its ``add_argument``, which it may
                change.
            complete: Called with the parser before it parses.
        """
        self.parsed: dict[str, argparse.Namespace] = {}
        self.added: set[str] = set()
        observed = self

        class Parser(argparse.ArgumentParser):
            def add_argument(self, *names: Any, **options: Any) -> Any:
                if names:
                    observed.added.add(names[-1])
                    edit(self, names[-1], options)
                return super().add_argument(*names, **options)

            def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
                complete(self)
                namespace = super().parse_args(args, namespace)
                observed.parsed[args[0] if args else ""] = namespace
                return namespace

        self.ArgumentParser = Parser

    def __getattr__(self, name: str) -> Any:
        return getattr(argparse, name)


def _wanted() -> bool:
    return command_line.encoder_requested() or command_line.help_requested()


def _add_precision(parser: argparse.ArgumentParser) -> None:
    if "--precision" not in parser._option_string_actions:
        parser.add_argument(
            "--precision",
            action=RememberChoice,
            help="fp32, int8, ...: csplade computes with ONNX Runtime; auto: the fastest here (pyserini-llm-sparse)",
        )


def patch_encode(command: dict[str, Any]) -> None:
    """``pyserini.encode``: know the class, use the spec's length, and leave the spec beside the vectors."""
    if not _wanted():
        return
    from pyserini_llm_sparse.modelling.spec import sidecar  # here, since commands of others shall not pay for pydantic

    upstream, writer = command["init_encoder"], command["JsonlRepresentationWriter"]
    expect(callable(upstream) and isinstance(writer, type) and hasattr(writer, "__exit__"), "its parts are gone")

    def edit(parser: argparse.ArgumentParser, name: str, options: dict[str, Any]) -> None:
        if name == "--encoder-class":
            options["choices"] = [*options["choices"], ENCODER_CLASS]
            _add_precision(parser)
        elif name == "--max-length":
            options["default"] = PyseriniDefault(options["default"])

    observed = ObservedArgparse(edit)
    loaded: list[Any] = []

    def init_encoder(encoder: str, encoder_class: str | None, *arguments: Any, **options: Any) -> Any:
        if not is_ours(encoder, encoder_class):
            return upstream(encoder, encoder_class, *arguments, **options)
        given = observed.parsed.get("encoder")
        expect(
            given is not None and {"--encoder-class", "--max-length", "--embeddings"} <= observed.added,
            "its options have changed",
        )
        loaded.append(_document_encoder(encoder, given, observed.parsed.get("output"), observed.parsed.get("input")))
        return loaded[0]

    class WriterWithSpec(writer):  # type: ignore[misc, valid-type]
        """Upstream's writer, which leaves the encoding spec beside the folder when all has been written."""

        def __enter__(self) -> Any:
            if loaded:
                sidecar(observed.parsed["output"].embeddings).unlink(missing_ok=True)
            return super().__enter__()

        def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
            result = super().__exit__(kind, error, traceback)
            if kind is None and loaded:
                encoder = loaded[0].encoder
                encoder.spec.save(sidecar(observed.parsed["output"].embeddings), encoder.checkpoint.made_by)
            return result

    command.update(argparse=observed, init_encoder=init_encoder, JsonlRepresentationWriter=WriterWithSpec)


def _document_encoder(encoder: str, given: Any, output: Any, source: Any) -> Any:
    from pyserini.util import resolve_device

    from pyserini_llm_sparse.plugin.encoders import CspladeDocumentEncoder, warn_of_left_out_fields

    with one_line_errors():
        wrong = [name for name, default in _WITHOUT_MEANING.items() if getattr(given, name, default) != default]
        if getattr(output, "to_faiss", False):
            wrong.append("to_faiss")
        if wrong:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            raise UsageError(f"pyserini.encode: {options}: without meaning for sparse vectors; leave it out")
        if source is not None:
            warn_of_left_out_fields(source.corpus, source.fields, given.fields)
    precision = command_line.chosen.get("precision")
    # Upstream's default is a GPU, whatever is computed there; an export chooses by its precision.
    device = None if precision else resolve_device(given.device, backend="torch")
    return CspladeDocumentEncoder(
        encoder,
        device,
        dtype="float16" if given.fp16 and device not in (None, "cpu") else None,
        precision=precision,
        max_length=given.max_length,
        fields=given.fields,
        prefix=given.prefix,
    )


def patch_encode_query(command: dict[str, Any]) -> None:
    """``pyserini.encode.query``: know our names, write impacts as they are, encode in batches, write UTF-8."""
    if not _wanted():
        return
    upstream, topics = command["init_encoder"], command["DefaultQueryIterator"]
    expect(callable(upstream) and callable(topics.from_topics), "its parts are gone")
    loaded: list[Any] = []

    def edit(parser: argparse.ArgumentParser, name: str, options: dict[str, Any]) -> None:
        if name == "--max-length":
            options["default"] = PyseriniDefault(options["default"])

    def complete(parser: argparse.ArgumentParser) -> None:
        expect({"--encoder", "--weight-range", "--quant-range", "--max-length"} <= observed.added, "options are gone")
        if "--encoder-class" not in observed.added:
            parser.add_argument("--encoder-class", choices=[ENCODER_CLASS], help="csplade, for a name that hides it")
        _add_precision(parser)

    observed = ObservedArgparse(edit, complete)

    def init_encoder(encoder: str, *arguments: Any, **options: Any) -> Any:
        given = observed.parsed[""]
        if not is_ours(encoder, given.encoder_class):
            return upstream(encoder, *arguments, **options)
        from pyserini_llm_sparse.plugin.encoders import CspladeQueryEncoder

        if given.weight_range != given.quant_range:
            command_line.end_command(
                UsageError(
                    "pyserini.encode.query: --weight-range and --quant-range: csplade gives impacts, which are not "
                    "scaled again; leave both out"
                )
            )
        given.weight_range = given.quant_range = 1
        precision = command_line.chosen.get("precision")
        device = None if precision else options.get("device") or (arguments[0] if arguments else None)
        loaded.append(
            CspladeQueryEncoder(encoder, device, prefix=options.get("prefix"), precision=precision, for_file=True)
        )
        return loaded[0]

    class TopicsInBatches(topics):  # type: ignore[misc, valid-type]
        """Upstream's topics, whose texts are encoded in batches while they are gone through."""

        def __iter__(self) -> Any:
            pairs = list(super().__iter__())
            if not loaded or not isinstance(observed.parsed[""].max_length, PyseriniDefault):
                yield from pairs
                return
            for start in range(0, len(pairs), 256):
                some = pairs[start : start + 256]
                with loaded[0].announced([text for _, text in some]):
                    yield from some

    command.update(
        argparse=observed,
        init_encoder=init_encoder,
        DefaultQueryIterator=TopicsInBatches,
        open=partial(open, encoding="utf-8"),
    )


def patch_search(command: dict[str, Any]) -> None:
    """``pyserini.search.lucene`` and the sparse part of hybrid: add --encoder-class and --device."""
    if not _wanted() and not command_line.our_index_requested():
        return
    if command["__name__"] == "__main__" and not command_line.help_requested():
        _require_impact("pyserini.search.lucene", sys.argv[1:])
    define = command["define_search_args"]
    expect(callable(define), "define_search_args is gone")

    def define_search_args(parser: argparse.ArgumentParser) -> None:
        define(parser)
        known = {option for action in parser._actions for option in action.option_strings}
        expect({"--encoder", "--impact", "--min-idf"} <= known, "define_search_args has changed")
        parser.set_defaults(min_idf=PyseriniDefault(parser.get_default("min_idf")))
        if "--encoder-class" not in known:
            parser.add_argument(
                "--encoder-class",
                choices=[ENCODER_CLASS],
                action=RememberChoice,
                help="csplade, for an encoder whose name does not say so (pyserini-llm-sparse)",
            )
        if "--device" not in known:
            parser.add_argument(
                "--device", action=RememberChoice, help="where csplade runs, cpu or cuda:0 (pyserini-llm-sparse)"
            )

        _add_precision(parser)

    command["define_search_args"] = define_search_args


def _require_impact(module: str, arguments: Sequence[str]) -> None:
    """Refuse what Pyserini would answer silently with BM25: our encoder without ``--impact``."""
    given = {argument.partition("=")[0] for argument in arguments}
    if command_line.encoder_requested(arguments) and not given & {"--impact", "--imp", "--impa", "--impac"}:
        raise UsageError(
            f"{module}: --encoder without --impact: Pyserini would ignore the encoder and rank by BM25; add --impact"
        )


def patch_faiss(command: dict[str, Any]) -> None:
    """``pyserini.search.faiss`` and the dense part of hybrid: get as far as the explanation."""
    if not _wanted():
        return
    define, upstream = command["define_dsearch_args"], command["init_query_encoder"]
    expect(callable(define) and callable(upstream), "its parts are gone")

    def define_dsearch_args(parser: argparse.ArgumentParser) -> None:
        define(parser)
        for action in parser._actions:
            if "--encoder-class" in action.option_strings and action.choices is not None:
                action.choices = [*action.choices, ENCODER_CLASS]

    def init_query_encoder(encoder: Any, encoder_class: Any, *arguments: Any, **options: Any) -> Any:
        if is_ours(encoder, encoder_class):
            from pyserini_llm_sparse.plugin.encoders import refuse_dense_search

            refuse_dense_search()
        return upstream(encoder, encoder_class, *arguments, **options)

    command.update(define_dsearch_args=define_dsearch_args, init_query_encoder=init_query_encoder)


def patch_hybrid(command: dict[str, Any]) -> None:
    """``pyserini.search.hybrid`` is made of the parts above; its sparse part needs ``--impact`` as well."""
    part = ""
    parts: dict[str, list[str]] = {"dense": [], "sparse": [], "fusion": [], "run": []}
    for argument in sys.argv[1:]:
        part = argument if argument in parts else part
        parts.get(part, []).append(argument)
    if not command_line.help_requested():
        _require_impact("pyserini.search.hybrid", parts["sparse"])
        if command_line.encoder_requested(parts["sparse"]):
            warn_of_weight(parts["fusion"][1:])
