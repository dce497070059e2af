"""All that a page shows of one run: what its stages have left behind, read, and what is computed from that.

The one idea: a page serves after any stage, so everything is there or None (or an empty collection), and drawing reads
no files. Run it in the run's folder. Val is read to show documents; no result of a stage depends on it.

Checked by: tests/reports/test_page.py.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.base.artifacts import path_of, read_text
from pipeline.base.config import Params
from pipeline.codec.foreign import load_artifact_model
from pipeline.data.batches import SequenceSampler
from pipeline.data.manifest import listed_shards, open_listed, read_manifest
from pipeline.data.tokenizer import load_tokenizer
from pipeline.model.checkpoint import load_checkpoint
from pipeline.model.schedule import build_schedule
from pipeline.reports.comparison import Comparison, Divergence, block_divergences, compare, group_of, training_slice
from pipeline.reports.results import quantization_gap, read_report, report_results
from pipeline.reports.schedule_table import with_dense_average
from pipeline.reports.text_losses import (
    PositionLoss,
    WorstDocument,
    document_losses,
    loss_by_document_position,
    loss_by_window_position,
    worst_documents,
)
from pipeline.scoring.ledger import Ledger, load_ledger
from pipeline.training.regime import settings_at


@dataclass(kw_only=True)
class SeedFacts:
    """One seed of a run."""

    label: str
    """What pictures call it."""
    train: dict[str, Any] | None
    calibrate: dict[str, Any] | None
    quantize: dict[str, Any] | None
    scores: dict[str, dict[str, Any]]
    """By item, `float` first."""
    curve: list[dict[str, float]]
    comparison: Comparison | None = None
    by_document_position: dict[str, list[PositionLoss]] = field(default_factory=dict)
    """By item."""
    by_window_position: dict[str, list[PositionLoss]] = field(default_factory=dict)
    document_bpb: np.ndarray | None = None
    """Of the last item that is there, as `document_item` says."""
    document_item: str = ""

    @property
    def gap_nats(self) -> float | None:
        """What quantization costs on val, nats per token, where an item scores the artifact as `float` does."""
        return quantization_gap(self.scores, "val_loss")


@dataclass(kw_only=True)
class RunFacts:
    """One run."""

    name: str
    results: dict[str, Any]
    seeds: list[SeedFacts]
    passes: dict[int, int]
    """Looped block -> how often it runs in one forward pass."""
    changes: list[tuple[int, str]]
    """Step at which training changed, and to what; of the first seed."""
    slice_reads: float | None
    """How often training read its sequences, the slice's among them; None: not trained here."""
    audit: dict[str, Any] | None
    divergences: dict[str, Divergence] = field(default_factory=dict)
    """By block, of the first seed."""
    worst: list[WorstDocument] = field(default_factory=list)
    """Of the first seed's `document_item`."""


def run_facts(params: Params, name: str, is_named: bool) -> RunFacts:
    """Return the facts of the run in this folder; its pictures name it where they show others, too."""
    seeds = [_seed_facts(params, seed, f"seed {seed}" + f" of {name}" * is_named) for seed in params.seeds]
    visits = build_schedule(params.model.schedule).visits
    counts = {visit.block: sum(each.block == visit.block for each in visits) for visit in visits}
    facts = RunFacts(
        name=name,
        results=report_results(params),
        seeds=seeds,
        passes={block: count for block, count in counts.items() if count > 1},
        changes=_changes(params, seeds[0]),
        slice_reads=None,
        audit=read_report(path_of("audit")),
    )
    for seed, each in zip(params.seeds, seeds, strict=True):
        _add_comparison(facts, params, seed, each)
        _add_text_losses(facts, params, seed, each)
    return facts


def _seed_facts(params: Params, seed: int, label: str) -> SeedFacts:
    scores = {item: read_report(path_of("scores", seed=seed, item=item)) for item in ("float", *params.evaluate.items)}
    curve = path_of("curve", seed=seed)
    rows = csv.DictReader(io.StringIO(read_text(curve))) if curve.exists() else []
    return SeedFacts(
        label=label,
        train=read_report(path_of("train_report", seed=seed)),
        calibrate=read_report(path_of("calibrate_report", seed=seed)),
        quantize=read_report(path_of("quantize_report", seed=seed)),
        scores={item: score for item, score in scores.items() if score},
        curve=[{key: float(value) for key, value in row.items()} for row in rows],
    )


def _are_there(names: Sequence[str], seed: int) -> bool:
    return all(path_of(name, seed=seed).exists() for name in names)


def _changes(params: Params, seed: SeedFacts) -> list[tuple[int, str]]:
    """Return when loops, averages and quantization began, as far as the rows of the curve can tell.

    What is done in every n-th step, an average or all loops, begins once.
    """
    config = replace(with_dense_average(params.train), all_loops_every_steps=None)
    found, before = [], ["all loops"]
    for row in seed.curve if seed.train and not seed.train["imported"] else []:
        settings = settings_at(config, int(row["step"]) - 1, row["seconds"])
        loops = "all loops" if settings.active_loops is None else f"{settings.active_loops} of the loops"
        names = [
            loops,
            *[f"{settings.context_tokens} tokens a sequence"] * (settings.context_tokens is not None),
            *["average"] * settings.is_averaged,
            *["quantization"] * settings.is_quantized,
        ]
        if new := [each for each in names if each not in before]:
            found.append((int(row["step"]), ", ".join(new)))
        before = names
    return found


def _add_comparison(facts: RunFacts, params: Params, seed: int, each: SeedFacts) -> None:
    """Run both models of a seed over a slice of training text, where both and the text are there and fit together."""
    if each.quantize is None or not _are_there(["checkpoint", "model", "manifest", "train_shards"], seed):
        return
    model, (artifact, _) = (
        load_checkpoint(path_of("checkpoint", seed=seed)),
        load_artifact_model(path_of("model", seed=seed)),
    )
    if model.config != artifact.config or read_manifest(path_of("manifest"))["vocab_size"] != model.config.vocab_size:
        return
    shards = open_listed(listed_shards(path_of("manifest"), "train"), model.config.vocab_size, check_content=False)
    sampler = SequenceSampler(shards, model.config.context_tokens, seed, params.train.document_bos_id)
    ids_BT = training_slice(sampler)
    each.comparison = compare(model.eval(), artifact.eval(), ids_BT)
    if each is facts.seeds[0]:
        groups = dict.fromkeys(group_of(layer["name"]) for layer in each.quantize["layers"])
        facts.divergences = block_divergences(model, artifact, ids_BT, list(groups))
        if each.train and not each.train["imported"]:
            facts.slice_reads = each.train["tokens"] / (sampler.num_sequences * sampler.sequence_tokens)


def _add_text_losses(facts: RunFacts, params: Params, seed: int, each: SeedFacts) -> None:
    """Take a seed's ledgers apart, as far as they belong to the val split that is there."""
    if not _are_there(["manifest", "val_shards", "tokenizer"], seed):
        return
    manifest = read_manifest(path_of("manifest"))
    tokens_M = np.concatenate(
        open_listed(listed_shards(path_of("manifest"), "val"), manifest["vocab_size"], check_content=False)
    )
    for item in each.scores:
        ledger = _ledger(seed, item, len(tokens_M) - 1)
        if ledger is None:
            continue
        each.by_document_position[item] = loss_by_document_position(ledger, tokens_M, manifest["bos_id"])
        if (by_window := loss_by_window_position(ledger)) is not None:
            each.by_window_position[item] = by_window
        each.document_item, each.document_bpb = item, document_losses(ledger, tokens_M, manifest["bos_id"])
        if each is facts.seeds[0]:
            facts.worst = worst_documents(ledger, tokens_M, load_tokenizer(path_of("tokenizer")))


def _ledger(seed: int, item: str, num_targets: int) -> Ledger | None:
    path = path_of("ledger", seed=seed, item=item)
    ledger = load_ledger(path) if path.exists() else None
    return ledger if ledger is not None and ledger.num_targets == num_targets else None


def seconds_of(seed: SeedFacts) -> Mapping[str, float]:
    """Return the seconds of a seed's stages, items of evaluate together, as far as they have run."""
    reports = {"train": seed.train, "calibrate": seed.calibrate, "quantize": seed.quantize}
    seconds = {stage: report["seconds"] for stage, report in reports.items() if report}
    if seed.scores:
        seconds["evaluate"] = sum(score["seconds"]["total"] for score in seed.scores.values())
    return seconds
