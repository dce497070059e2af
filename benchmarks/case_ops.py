"""What taking capitals out of the text saves: tokens per byte, and bits per byte after equal training.

`python -m benchmarks.case_ops tokens DATA` prepares the demo's corpus, and the sample of FineWeb documents in the
folder DATA, in every form and for several vocabularies, and counts the tokens of what is held out.

`python -m benchmarks.case_ops train DATA --seconds 60` trains the demo's model by its recipe in every form on each of
these corpora for so long, on a machine that does nothing else (`--steps`: for so many steps instead, on any), with
several seeds, scores the float weights on the held-out documents, and compares runs of the same seed. Runs that are
done are kept under `.cache/case_ops` by all their settings, so that a command that was stopped goes on.

Checked by: tests/benchmarks/test_case_ops.py.
"""

import argparse
import dataclasses
import hashlib
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quantization.data import DOCUMENTS
from benchmarks.results import ROOT, write_result
from pipeline.base.artifacts import CACHE, write_json
from pipeline.base.checks import require
from pipeline.base.config import Params, load_params
from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.corpus.config import DataConfig
from pipeline.corpus.prepare import prepare
from pipeline.data.byte_count import load_byte_table
from pipeline.data.case_ops import CASE_FORMS
from pipeline.data.shards import open_shards, shard_paths
from pipeline.reports.training import hardware_name
from pipeline.scoring.run import score_item
from pipeline.training.run import train_from_shards

ARMS: dict[str, Any] = {"none": None, **{name: name for name in ("published", "fused", "before-space")}}
"""Name -> value of data.case_ops."""
assert {*ARMS.values()} == {None, *CASE_FORMS}
WORK = ROOT / CACHE / "case_ops"
_CPU = torch.device("cpu")
_SAMPLE_VAL_FRAC = 0.2
"""Of the sample's documents, which are few."""


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.case_ops", description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    tokens = parts.add_parser("tokens", help="count tokens per byte")
    train = parts.add_parser("train", help="train and score")
    for part in (tokens, train):
        part.add_argument("data", metavar="DATA", type=Path, help=f"folder with {DOCUMENTS}")
    tokens.add_argument("--pieces", type=int, nargs="+", default=[1024, 4096, 8192], help="sizes of the vocabulary")
    budget = train.add_mutually_exclusive_group(required=True)
    budget.add_argument("--seconds", type=float, help="of training, each run")
    budget.add_argument("--steps", type=int, help="of training, each run")
    train.add_argument("--seeds", type=int, nargs="+", default=[444, 445, 446])
    options = parser.parse_args()
    demo = load_params(ROOT / "recipes" / "demo.yaml", ["data", "model", "train", "evaluate"])
    sample = dataclasses.replace(
        demo.data, source="text", files=(str(options.data / DOCUMENTS),), val_frac=_SAMPLE_VAL_FRAC
    )
    corpora = {"wikipedia-leads": demo.data, "fineweb": sample}
    if options.part == "tokens":
        found = count_tokens(corpora, options.pieces, WORK)
    else:
        demo.train = dataclasses.replace(demo.train, max_seconds=options.seconds, max_steps=options.steps)
        found = {corpus: train_arms(demo, corpus, data, options.seeds, WORK) for corpus, data in corpora.items()}
    print(write_result(f"case_ops_{options.part}", hardware_name(_CPU), found).relative_to(ROOT))


def count_tokens(corpora: dict[str, DataConfig], vocabularies: Sequence[int], work: Path) -> dict[str, Any]:
    """Return tokens and bytes of held-out text by corpus, vocabulary and arm, and tokens relative to plain text's."""
    found: dict[str, Any] = {}
    for corpus, data in corpora.items():
        for pieces in vocabularies:
            rows = found.setdefault(corpus, {})[str(pieces)] = {}
            for arm in ARMS:
                split = prepared(dataclasses.replace(data, vocab_size=pieces), arm, work / f"{corpus}-{pieces}-{arm}")
                tokens = split["tokens"] - split["documents"]  # without BOS
                rows[arm] = {"tokens": tokens, "bytes": split["bytes"], "tokens_per_byte": tokens / split["bytes"]}
            plain = rows["none"]
            for arm, row in rows.items():
                require(row["bytes"] == plain["bytes"], f"{corpus}, {arm}: bytes", row["bytes"], f"{plain['bytes']}")
                row["relative"] = row["tokens"] / plain["tokens"] - 1
                print(f"{corpus} {pieces} {arm}: {row['tokens_per_byte']:.4f} tokens/byte, {row['relative']:+.2%}")
    return found


def prepared(data: DataConfig, arm: str, folder: Path) -> dict[str, Any]:
    """Prepare a corpus for an arm and return what the manifest says of val."""
    manifest = prepare(dataclasses.replace(data, case_ops=ARMS[arm]), folder, ROOT / CACHE, silent)
    return dict(manifest["splits"]["val"])


def train_arms(demo: Params, corpus: str, data: DataConfig, seeds: Sequence[int], work: Path) -> dict[str, Any]:
    """Return the runs of all arms and seeds on a corpus, and how each arm differs from plain text, seed by seed."""
    demo.data = data
    runs = list(_runs(demo, corpus, seeds, work))
    bpb = {(run["arm"], run["seed"]): run["bpb"] for run in runs}
    differences = {}
    for arm in ARMS:
        by_seed = [bpb[arm, seed] - bpb["none", seed] for seed in seeds]
        deviation = statistics.stdev(by_seed) if len(by_seed) > 1 else None
        mean = statistics.mean(by_seed)
        differences[arm] = {"by_seed": by_seed, "mean": mean, "deviation": deviation}
        print(f"{corpus}, {arm}: {mean:+.4f} bpb, by seed {', '.join(f'{each:+.4f}' for each in by_seed)}", flush=True)
    limits = {"seconds": demo.train.max_seconds, "steps": demo.train.max_steps}
    return {**limits, "runs": runs, "difference_to_none": differences}


def _runs(demo: Params, corpus: str, seeds: Sequence[int], work: Path) -> Iterator[dict[str, Any]]:
    """Yield every run, made unless it is there: all arms of a seed one after the other, for the machine's sake."""
    settings = hashlib.sha256(repr(vars(demo)).encode()).hexdigest()[:12]
    for seed in seeds:
        for arm in ARMS:
            path = work / f"{corpus}-{settings}" / f"{arm}-{seed}.json"
            if not path.exists():
                folder = work / f"{corpus}-{demo.data.vocab_size}-{arm}"
                write_json(path, train_and_score(demo, arm, seed, folder))
            run = json.loads(path.read_text())
            print(f"{corpus}, seed {seed}, {arm}: {run['bpb']:.4f} bpb after {run['steps']} steps", flush=True)
            yield run


def train_and_score(demo: Params, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train a model on an arm's tokens and return its bits per byte on the held-out ones, sliding, float weights."""
    prepared(demo.data, arm, folder)
    shards = open_shards(shard_paths(folder / "train", "train"), demo.model.vocab_size)
    model, result = train_from_shards(
        demo.model, demo.train, shards, seed, ALONE, _CPU, lambda line: None, silent, "auto", None
    )
    val_M = np.concatenate(open_shards(shard_paths(folder / "val", "val"), demo.model.vocab_size))
    table, protocol = load_byte_table(folder / "byte_table.npz"), demo.evaluate.protocols["sliding"]
    ledger = score_item(model.eval(), val_M, table, protocol, _CPU, demo.evaluate.batch_tokens, silent)
    return {"arm": arm, "seed": seed, "steps": result.last["step"], "bpb": ledger.val_bpb}


if __name__ == "__main__":
    main()
