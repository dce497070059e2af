"""The challenge's published FineWeb shards, used as they are: fetched, checked, counted, never tokenized again.

The one idea: DVC must not copy the shards (it hashes and copies whatever lies in an out, the targets of links too), so
they stay in a folder of their own, and each split's out is a list of their paths (`shards.py` follows it). What stands
for their content is the manifest with their digests, on which every later stage depends.

A repository holds, below one folder, `manifest.json` (datasets with their tokenizer and number of files, tokenizers
with the path of their model), `datasets/<dataset>/fineweb_<split>_<number>.bin` and the tokenizers. The first n train
shards are a prefix of one shuffled export; val is always taken whole.

Axes: M tokens.
Source: the layout of the challenge's export and download scripts.
Checked by: tests/corpus/test_fineweb.py.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.checks import explain_failure, require
from pipeline.base.files import write_bytes
from pipeline.base.progress import Progress
from pipeline.corpus.config import DataConfig, FineWebConfig
from pipeline.corpus.hub import HubDataset
from pipeline.corpus.totals import SPLITS, SplitTotals, write_manifest
from pipeline.data.byte_count import ByteTable, byte_table, count_bytes
from pipeline.data.case_ops import require_case_form
from pipeline.data.overlap import overlap_line
from pipeline.data.shards import open_shard
from pipeline.data.tokenizer import load_tokenizer

_COUNTED_AT_ONCE_TOKENS = 1 << 16
_BROKEN_FRAC = 0.1
"""Share of val's text in train above which an export is refused; the audit's limit is below it."""


class _Export(NamedTuple):
    """The files of one variant, by their names in the repository."""

    tokenizer: str
    shards: list[tuple[str, str]]
    """Split and name; val first."""


def write_fineweb(config: DataConfig, root: Path, progress: Progress) -> dict[str, Any]:
    """Fetch the configured shards and write tokenizer, lists of shards, byte table and manifest into `root`.

    Returns the manifest. `root` may be moved to a sibling of any name afterwards: paths in the lists stay right.
    Raises DownloadError or ShardError for files that cannot be fetched or are wrong, ValueError for a configuration
    that the export does not fit.
    """
    source = config.fineweb
    assert source is not None
    hub = HubDataset(source.repository, source.revision, source.endpoint, Path(source.folder).expanduser())
    export = _read_export(hub, source)
    tokenizer = hub.fetch(export.tokenizer)
    processor = load_tokenizer(tokenizer.path)
    require(
        processor.vocab_size() == config.vocab_size,
        "data.vocab_size",
        config.vocab_size,
        f"{processor.vocab_size()}, the pieces of {export.tokenizer}",
    )
    require_case_form(processor, config.case_ops)
    write_bytes(root / "tokenizer.model", tokenizer.path.read_bytes())
    table = byte_table(processor)
    totals, paths = _fetch_shards(hub, export.shards, processor.bos_id(), table, progress)
    for split in SPLITS:
        _write_list(root / split, split, paths[split])
    log = partial(progress, len(export.shards), len(export.shards))
    origin = {"source": config.source, "origin": {"repository": hub.repository, "commit": hub.revision}}
    manifest = write_manifest(root, origin, processor, table, totals, log)
    _require_apart(manifest["overlap"], source.variant)
    return manifest


def _require_apart(overlap: Mapping[str, Any], variant: str) -> None:
    """Raise ValueError for an export whose val was trained on: no chance repeats so much."""
    if overlap["copied_tokens"] > _BROKEN_FRAC * overlap["tokens"]:
        raise ValueError(
            f"data.fineweb: {variant}: {overlap_line(overlap)}: train and val are not apart, and no score on this val "
            "means anything; set data.fineweb.repository or data.fineweb.revision to an export that keeps them apart"
        )


def _read_export(hub: HubDataset, source: FineWebConfig) -> _Export:
    """Return the files of the configured variant that the published manifest promises."""
    root = PurePosixPath(source.root)
    manifest = str(root / "manifest.json")
    wanted = f"fineweb10B_{source.variant}"
    path = hub.fetch(manifest).path
    try:
        published = json.loads(path.read_bytes())
        datasets = {entry["name"]: entry for entry in published["datasets"]}
        if wanted in datasets:
            models = {entry["name"]: entry.get("model_path") for entry in published["tokenizers"]}
            model = str(root / models[datasets[wanted]["tokenizer_name"]])
            files = {split: int(datasets[wanted]["stats"][f"files_{split}"]) for split in SPLITS}
            require(files["val"] >= 1, "files_val", files["val"], "at least 1")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{manifest}: not the manifest of an export ({explain_failure(error)}); correct data.fineweb.root "
            "or data.fineweb.repository"
        ) from error
    require(
        wanted in datasets,
        "data.fineweb.variant",
        source.variant,
        f"one that {hub.repository} publishes ({', '.join(datasets)})",
    )
    require(
        source.train_shards <= files["train"],
        "data.fineweb.train_shards",
        source.train_shards,
        f"at most {files['train']}, the train shards of {wanted} in {hub.repository}",
    )
    numbers = {"val": range(files["val"]), "train": range(source.train_shards)}
    folder = root / "datasets" / wanted
    return _Export(
        model,
        [
            (split, str(folder / f"fineweb_{split}_{number:06d}.bin"))
            for split in ("val", "train")
            for number in numbers[split]
        ],
    )


def _fetch_shards(
    hub: HubDataset, shards: list[tuple[str, str]], bos_id: int, table: ByteTable, progress: Progress
) -> tuple[dict[str, SplitTotals], dict[str, list[Path]]]:
    """Fetch, check and count the shards in their order; return the totals and the local paths of each split."""
    vocab_size = len(table.base_V)
    totals = {split: SplitTotals(vocab_size) for split in SPLITS}
    paths: dict[str, list[Path]] = {split: [] for split in SPLITS}
    before = {split: np.zeros(0, np.uint16) for split in SPLITS}
    for done, (split, name) in enumerate(shards):
        progress(done, len(shards), PurePosixPath(name).name)
        path, sha256 = hub.fetch(name)
        tokens_M = open_shard(path, vocab_size)
        before[split] = _count_tokens(totals[split], before[split], tokens_M, bos_id, table)
        totals[split].add_shard(name, sha256, len(tokens_M))
        paths[split].append(path)
    progress(len(shards), len(shards), "all shards fetched and checked")
    return totals, paths


def _count_tokens(
    totals: SplitTotals, before: np.ndarray, tokens_M: np.ndarray, bos_id: int, table: ByteTable
) -> np.ndarray:
    """Add a shard to its split's totals, part by part; `before` and the result hold the last token before and in it."""
    for start in range(0, len(tokens_M), _COUNTED_AT_ONCE_TOKENS):
        part_M = np.asarray(tokens_M[start : start + _COUNTED_AT_ONCE_TOKENS])
        num_bytes = int(count_bytes(np.concatenate([before, part_M]), table).sum())
        totals.add_tokens(part_M, int(np.count_nonzero(part_M == bos_id)), num_bytes)
        before = part_M[-1:]
    return before


def _write_list(folder: Path, split: str, paths: list[Path]) -> None:
    """Write the list of a split's shards: relative to its folder where data.fineweb.folder is relative."""
    lines = [path if path.is_absolute() else os.path.relpath(path.resolve(), folder.resolve()) for path in paths]
    write_bytes(folder / f"{split}_shards.txt", "".join(f"{line}\n" for line in lines).encode())
