"""Where the seconds of an evaluation go: windows, learning, the phase of all weights, compilation, counts mixed in.

The one idea: the planner of scoring says how often which pass runs, and fake passes say what it asks of a device.

Axes: B sequences, T positions.
Checked by: tests/projection/test_scoring_time.py, tests/benchmarks/test_phased.py
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.base.ranks import ALONE
from pipeline.corpus.config import DataConfig
from pipeline.model.config import ModelConfig
from pipeline.projection.counts import Counts, count, fake_network, forward_counts
from pipeline.projection.machines import Machine
from pipeline.quant.config import MixtureConfig
from pipeline.scoring.adaptation import ChunkSGD
from pipeline.scoring.config import LoraProtocol, Protocol, TTTProtocol
from pipeline.scoring.evaluate import WORTH_COMPILING, adaptation_for
from pipeline.scoring.phased_config import GlobalPhase, PhasedProtocol
from pipeline.scoring.windows import MOST_RANKS, Group, Step, Window, chunk_groups, plan, steps_of_rank

VAL_TARGETS = {1024: 62_021_632, 8192: 40_540_802}
"""Vocabulary -> targets of the challenge's val split (its published logs)."""
CASE_OPS_TARGETS = 47_853_344
"""The same of 8,192 pieces in the published form of case-ops, an upper bound of the other two."""
VAL_DOCUMENTS = 50_000
LENGTH_SIGMA = 1.1
"""Of the documents' log-normal lengths: between the 50th and 90th, and 50th and 99th percentile of FineWeb's."""


def val_targets(data: DataConfig) -> int | None:
    """Return how many targets the challenge's val split has, or at most has, in a tokenizer's pieces; None: unknown."""
    known = VAL_TARGETS.get(data.vocab_size)
    return CASE_OPS_TARGETS if known and data.case_ops else known


def challenge_documents(num_targets: int) -> list[int]:
    """Return targets of each document of a val split of so many: log-normal, the same in every run."""
    lengths = np.random.default_rng(0).lognormal(0, LENGTH_SIGMA, VAL_DOCUMENTS)
    return np.diff(np.rint(np.cumsum(lengths) * num_targets / lengths.sum()), prepend=0).astype(int).tolist()


def scoring_seconds(
    config: ModelConfig, protocol: Protocol, batch_tokens: int, machine: Machine, num_targets: int
) -> float:
    """Return the seconds of evaluating the challenge's val split under a protocol, without counts."""
    return sum(scoring_parts(config, protocol, batch_tokens, machine, num_targets).values())


def scoring_parts(
    config: ModelConfig, protocol: Protocol, batch_tokens: int, machine: Machine, num_targets: int
) -> dict[str, float]:
    """Return the same by what takes them."""
    documents = challenge_documents(num_targets) if hasattr(protocol, "bos_id") else [num_targets]
    groups = plan(documents, protocol)
    steps = list(steps_of_rank(groups, protocol, batch_tokens, 0, machine.processes))
    if isinstance(protocol, LoraProtocol | PhasedProtocol):
        parts = {"windows": 0.0, "learning": 0.0}
        for part, counts in adapter_counts(config, protocol, steps):
            parts[part] += counts.seconds(machine, compiled=False)
        return {**parts, "phase": phase_seconds(config, protocol, groups, machine)}
    batches = [batch for step in steps for batch in step.batches]
    compiled = machine.processes * len(batches) >= WORTH_COMPILING
    scored = getattr(protocol, "stride_tokens", protocol.context_tokens)
    window = forward_counts(config, protocol.context_tokens, scored)
    whole = (window.scaled(padded_windows(batch, protocol.context_tokens)) for batch in batches)
    return {
        "windows": sum(counts.seconds(machine, compiled) for counts in whole),
        "learning": sgd_seconds(config, protocol, groups, machine) if isinstance(protocol, TTTProtocol) else 0.0,
        "compile": machine.compile_seconds if compiled else 0.0,
    }


def mixture_seconds(protocol: Protocol, mixture: MixtureConfig | None, machine: Machine, num_targets: int) -> float:
    """Return the seconds of the counts that a protocol mixes in, on the host."""
    if protocol.mixture is None or mixture is None:
        return 0.0
    orders = len(mixture.document_orders) + len(mixture.stream_orders) * (protocol.mixture == "stream")
    return num_targets * orders * machine.count_seconds


def padded_windows(batch: list[Window], context_tokens: int) -> float:
    """Return to how many whole windows a batch is padded."""
    return len(batch) * max(window.stop - window.start for window in batch) / context_tokens


def sgd_seconds(
    config: ModelConfig, protocol: TTTProtocol | GlobalPhase, groups: list[Group], machine: Machine
) -> float:
    """Return the seconds of chunk TTT's training: a part's gradient, the gathering of all, the update."""
    with fake_network(config, protocol.context_tokens) as model:
        learner = ChunkSGD(model, protocol, len(groups), torch.bfloat16, ALONE, map)
        ids_BT = torch.zeros(-(-protocol.batch_sequences // MOST_RANKS), protocol.context_tokens, dtype=torch.int64)
        part = count(lambda: learner._gradient(ids_BT, ids_BT, ids_BT.numel()))
        gradient_bytes = 4 * sum(parameter.numel() for parameter in learner.trainable)
    parts_per_process = -(-MOST_RANKS // machine.processes)
    sequences = [(group.stop - group.start) // protocol.context_tokens for group in groups if not group.is_last]
    num_steps = protocol.epochs * sum(-(-number // protocol.batch_sequences) for number in sequences)
    # Each part is read, added to the sum and written; norm, momentum and update read and write about as much again.
    update = (3 * MOST_RANKS + 10) * gradient_bytes / machine.bytes_per_second
    gather = (machine.processes - 1) * gradient_bytes / machine.link_bytes_per_second
    return num_steps * (parts_per_process * part.seconds(machine, compiled=False) + update + gather)


def phase_seconds(
    config: ModelConfig, protocol: LoraProtocol | PhasedProtocol, groups: list[Group], machine: Machine
) -> float:
    """Return the seconds of the phase in which all weights learn, at most: each piece of a document is a whole row."""
    phase = next((group for group in groups if not group.windows), None)
    if phase is None or not isinstance(protocol, PhasedProtocol) or protocol.global_phase is None:
        return 0.0
    rule = protocol.global_phase
    pieces = 1 + rule.context_tokens * rule.documents / phase.stop
    chunks = chunk_groups(phase.stop, (), rule.chunk_tokens)
    return pieces * sgd_seconds(config, rule, chunks, machine)


def adapter_counts(
    config: ModelConfig, protocol: LoraProtocol | PhasedProtocol, steps: list[Step]
) -> Iterator[tuple[str, Counts]]:
    """Yield the counts of every pass: each step scores its chunks and, where documents go on, learns from them."""
    context = protocol.context_tokens
    one, two, half = (
        lora_counts(config, protocol, *shape) for shape in ((1, context), (2, context), (1, context // 2))
    )
    for step in (step for step in steps if step.batches):
        length = max(window.stop - window.start for window in step.batches[0])
        going = sum(group.start < group.stop and not group.is_last for group in step.groups)
        for at, (part, documents) in enumerate({"windows": len(step.groups), "learning": going}.items()):
            if documents:
                yield part, _between(one[at], two[at], half[at], documents, length / context)


def _between(one: Counts, two: Counts, half: Counts, documents: int, part: float) -> Counts:
    """Return the counts of so many documents in windows of a part of the context, from those of three shapes.

    Weights are read once, adapters once a document, activations by position; attention's square is taken for a line.
    """
    per_position = [2 * (whole - less) for whole, less in zip(one, half, strict=True)]
    per_document = [more - less - slope for more, less, slope in zip(two, one, per_position, strict=True)]
    once = [first - slope - each for first, slope, each in zip(one, per_position, per_document, strict=True)]
    values = [a + documents * (b + part * c) for a, b, c in zip(once, per_document, per_position, strict=True)]
    return Counts(one.launches, *values[1:])


def lora_counts(
    config: ModelConfig, protocol: LoraProtocol | PhasedProtocol, num_documents: int, num_tokens: int
) -> tuple[Counts, Counts]:
    """Return the counts of scoring a chunk of documents and of learning from it."""
    with fake_network(config, protocol.context_tokens) as model:
        learner: Any = adaptation_for(model, protocol, 0, torch.bfloat16, ALONE, map)
        tokens_T = torch.zeros(num_tokens + 1, dtype=torch.int64)
        at = num_tokens - protocol.chunk_tokens
        groups = [
            Group(2 * number, 0, num_tokens, False, (Window(0, num_tokens, at),)) for number in range(num_documents)
        ]
        ids_BT = tokens_T[:-1].expand(num_documents, -1)

        def score() -> None:
            with torch.no_grad():
                learner.before(groups)
                learner.head(model.hidden(ids_BT, protocol.chunk_tokens))

        return count(score), count(lambda: learner.after(groups, [tokens_T] * num_documents))
