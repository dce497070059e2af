"""`fairway score`: what any text costs under a model."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stages.shell.console import Stage, params_path_option
from stages.shell.models import device_option, open_source, tokenizer_option
from stages.shell.rules import check_params

if TYPE_CHECKING:
    from pipeline.inference.documents import Document
    from pipeline.scoring.config import Protocol


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--model",
    "source",
    type=click.Path(path_type=Path),
    help="A checkpoint (.safetensors), an artifact (.fwy) or a record folder. Default: the artifact of the first seed "
    "of params.yaml, else its checkpoint.",
)
@click.option("--separator", help=r"What stands between the documents of a text file; \n and \t are understood.")
@click.option(
    "--text-field", default="text", show_default=True, help="Field of .jsonl lines, column of .parquet, with the text."
)
@click.option("--joined", is_flag=True, help="Score all documents as one stream, each read after the ones before it.")
@click.option(
    "--protocol",
    "protocol_name",
    help="An entry of evaluate.protocols in params.yaml. Default: sliding windows of the model's context.",
)
@click.option(
    "--dearest", type=click.IntRange(min=0), default=0, help="Show so many tokens that cost most, in their places."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@tokenizer_option
@device_option
@params_path_option
def score(
    files: tuple[Path, ...],
    source: Path | None,
    separator: str | None,
    text_field: str,
    joined: bool,
    protocol_name: str | None,
    dearest: int,
    as_json: bool,
    tokenizer: Path | None,
    device: str,
    params_path: str,
) -> None:
    """Score the documents of FILEs: their bytes, tokens and bits per byte, one by one and in all.

    A FILE is a text, one document unless there is a --separator; or .jsonl, .jsonl.zst or .parquet, a document per line
    or row; or a folder of these; or - for a text from stdin. A document is scored alone, from its start, with the code
    and under a protocol of `fairway evaluate`; --joined --protocol NAME is exactly what that does with val. Prints a
    table; writes no file.

    \b
    fairway score notes.txt --dearest 5
    fairway score corpus/ --model artifacts/submission --json
    """
    protocol = _named_protocol(protocol_name, params_path)
    documents = _read_documents(files, separator, text_field)
    opened = open_source(source, tokenizer, device, params_path)

    from pipeline.inference.costs import default_protocol, score_documents
    from pipeline.inference.documents import encoded
    from pipeline.inference.report import cost_report, cost_table

    protocol = protocol or default_protocol(opened)
    texts = [encoded(opened, document) for document in documents]
    if not any(text.bytes for text in texts):
        raise ValueError(f"{_names(files)}: nothing is left of the text in {opened.tokenizer}; score another text")
    with Stage(0, time.monotonic(), {}).progress("score", "targets") as progress:
        costs = score_documents(opened, texts, protocol, joined, progress)
    report = cost_report(opened, costs, protocol, joined, dearest)
    text = json.dumps(report, indent=1, allow_nan=False) if as_json else cost_table(report)
    click.echo(text.encode())  # UTF-8, whatever the locale says


def _named_protocol(name: str | None, params_path: str) -> "Protocol | None":
    """Return a protocol of the configuration; ValueError naming those that it has when it lacks this one."""
    from pipeline.base.checks import require

    if name is None:
        return None
    protocols = check_params(params_path).evaluate.protocols
    require(name in protocols, "--protocol", name, f"one of {', '.join(protocols)}, of {params_path}")
    return protocols[name]


def _read_documents(files: tuple[Path, ...], separator: str | None, field: str) -> list["Document"]:
    """Return the documents of all files; ValueError, one line, when one cannot be read or all are blank."""
    from pipeline.base.checks import require
    from pipeline.corpus.text_files import TextFormat, split_text, texts_of_file
    from pipeline.inference.documents import named_documents

    mark = separator and separator.replace("\\n", "\n").replace("\\t", "\t")
    require(mark != "", "--separator", separator, "at least one character")
    form = TextFormat(field, mark, "--text-field")
    documents: list[Document] = []
    for path in _text_files(files):
        name, is_stdin = str(path), str(path) == "-"
        texts = split_text(name, sys.stdin.buffer.read(), mark) if is_stdin else texts_of_file(path, form)
        documents += named_documents(name, texts)
    if not documents:
        raise ValueError(f"{_names(files)}: no text to score; expected at least one document that is not blank")
    return documents


def _text_files(files: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the files, of folders those with text; ValueError, one line, when there is no such file."""
    from pipeline.base.files import require_file
    from pipeline.corpus.source_files import find_source_files
    from pipeline.corpus.text_files import TEXT_SUFFIXES

    for path in files:
        if path.is_dir():
            yield from find_source_files([str(path)], TEXT_SUFFIXES, "FILE")
            continue
        if str(path) != "-":
            require_file(path, "FILE", TEXT_SUFFIXES)
        yield path


def _names(files: tuple[Path, ...]) -> str:
    return ", ".join(map(str, files))
