"""Seconds that evaluation and a training step would take on H100s, from counts made without one.

One idea: a forward pass is run on fake tensors, which have shapes and no numbers, and every operation that computes is
counted: kernels, bytes read and written, multiply-adds. A pass takes as long as the slowest of three: starting its
kernels, moving its bytes, multiplying. How often which pass runs, the planner of scoring says. A compiled pass starts
no kernel by itself and moves the operands of its products twice: one fused kernel between two products reads what one
wrote and writes what the other reads. A training step is longer than that: what fused kernels keep for the backward
pass and the optimizer are not counted.

Run `python -m benchmarks.projection`. Projected, not measured: the constants are stated below, with their sources.

Checked by: tests/benchmarks/test_projection.py
"""

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.results import ROOT, write_result
from pipeline.base.config import load_params
from pipeline.base.ranks import ALONE
from pipeline.model.config import ModelConfig
from pipeline.model.loss import CHUNK_LOGITS
from pipeline.model.network import LoopedUNet
from pipeline.scoring.adaptation import ChunkSGD
from pipeline.scoring.config import LoraProtocol, Protocol, TTTProtocol
from pipeline.scoring.evaluate import WORTH_COMPILING, adaptation_for, nats_of_whole_windows
from pipeline.scoring.phased_config import GlobalPhase, PhasedProtocol
from pipeline.scoring.windows import MOST_RANKS, Group, Step, Window, chunk_groups, plan, steps_of_rank
from pipeline.training.memory import step_bytes

LAUNCH_SECONDS = 4e-6
"""Of the host, per kernel of an eager pass: what torch's dispatcher takes on a server's core."""
BYTES_PER_SECOND = 0.8 * 3.35e12
"""HBM3 of an H100 SXM (NVIDIA's data sheet), of which streaming kernels reach about four fifths."""
FLOPS_PER_SECOND = 0.5 * 989e12
"""Dense bf16 of an H100 SXM (NVIDIA's data sheet); products of width 512 reach about half."""
NVLINK_BYTES_PER_SECOND = 0.7 * 450e9
"""One direction of an H100's NVLink (data sheet), as collectives use it."""
COMPILE_SECONDS = 60.0
"""One scoring pass in one process with its kernels built in turn: 37 processor seconds on this CPU."""
VAL_TARGETS = {1024: 62_021_632, 8192: 40_540_802}
"""Vocabulary -> targets of the challenge's val split (its published logs)."""
VAL_DOCUMENTS = 50_000
LENGTH_SIGMA = 1.1
"""Of the documents' log-normal lengths: between the 50th and 90th, and 50th and 99th percentile of FineWeb's."""
FREE = (
    *("view", "unsafe_view", "expand", "permute", "transpose", "t.", "slice", "select", "split", "unbind", "detach"),
    *("alias", "empty", "unsqueeze", "squeeze", "pow", "mean", "add_.Scalar", "rsqrt"),
)
"""Operations that start no kernel: views, and the parts of a norm, which a GPU computes in one with its product."""


class Counts(NamedTuple):
    """What one pass asks of a GPU."""

    launches: float = 0
    bytes: float = 0
    product_bytes: float = 0
    """Of them those of operands and results of products."""
    flops: float = 0

    def scaled(self, factor: float) -> "Counts":
        """Return the counts of a pass over `factor` times the sequences: as many kernels."""
        return Counts(self.launches, *(factor * each for each in self[1:]))

    def seconds(self, compiled: bool) -> float:
        """Return how long the pass takes."""
        moved = 2 * self.product_bytes if compiled else self.bytes
        launched = 0.0 if compiled else self.launches * LAUNCH_SECONDS
        return max(launched, moved / BYTES_PER_SECOND, self.flops / FLOPS_PER_SECOND)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.product_bytes, self.flops = 0, 0, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function).removeprefix("aten.").lstrip("_")
        if function.namespace != "aten" or name.startswith(FREE):
            return result
        tensors = [each for each in torch.utils._pytree.tree_leaves((args, result)) if isinstance(each, torch.Tensor)]
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.launches += 1
        self.bytes += moved
        if function.overloadpacket in flop_registry:
            self.product_bytes += moved
            self.flops += flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def count(run: Callable[[], object]) -> Counts:
    """Return the counts of a call on fake tensors under bf16 autocast."""
    with _Counter() as counter:
        run()
    return Counts(counter.launches, counter.bytes, counter.product_bytes, counter.flops)


@contextmanager
def fake_network(config: ModelConfig, context_tokens: int) -> Iterator[LoopedUNet]:
    """Yield a network of fake tensors, inside their mode; logits come in a GPU's chunks."""
    with torch.device("meta"):
        model = LoopedUNet(config)
    chunks = patch.dict(CHUNK_LOGITS, cpu=CHUNK_LOGITS["cuda"])
    with chunks, FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        model.to_empty(device="cpu").set_context(context_tokens)
        yield model.eval()


def forward_counts(config: ModelConfig, context_tokens: int, num_scored: int) -> Counts:
    """Return the counts of scoring one window."""
    with fake_network(config, context_tokens) as model, torch.no_grad():
        ids_BT = torch.zeros(1, context_tokens, dtype=torch.int64)
        return count(lambda: nats_of_whole_windows(model, ids_BT, ids_BT[0, :num_scored]))


def training_counts(config: ModelConfig) -> Counts:
    """Return the counts of a training sequence, forward and backward."""
    with fake_network(config, config.context_tokens) as model:
        ids_BT = torch.zeros(1, config.context_tokens, dtype=torch.int64)
        return count(lambda: model(ids_BT, ids_BT).backward())


def challenge_documents(num_targets: int) -> list[int]:
    """Return targets of each document of a val split of so many: log-normal, the same in every run."""
    lengths = np.random.default_rng(0).lognormal(0, LENGTH_SIGMA, VAL_DOCUMENTS)
    return np.diff(np.rint(np.cumsum(lengths) * num_targets / lengths.sum()), prepend=0).astype(int).tolist()


def scoring_seconds(
    config: ModelConfig, protocol: Protocol, batch_tokens: int, num_processes: int, num_targets: int
) -> float:
    """Return the seconds of evaluating the challenge's val split under a protocol."""
    documents = challenge_documents(num_targets) if hasattr(protocol, "bos_id") else [num_targets]
    groups = plan(documents, protocol)
    steps = list(steps_of_rank(groups, protocol, batch_tokens, 0, num_processes))
    if isinstance(protocol, LoraProtocol | PhasedProtocol):
        seconds = sum(each.seconds(compiled=False) for each in adapter_counts(config, protocol, steps))
        return seconds + phase_seconds(config, protocol, groups, num_processes)
    batches = [batch for step in steps for batch in step.batches]
    compiled = num_processes * len(batches) >= WORTH_COMPILING
    scored = getattr(protocol, "stride_tokens", protocol.context_tokens)
    window = forward_counts(config, protocol.context_tokens, scored)
    seconds = sum(window.scaled(padded_windows(batch, protocol.context_tokens)).seconds(compiled) for batch in batches)
    seconds += COMPILE_SECONDS if compiled else 0.0
    return seconds + (sgd_seconds(config, protocol, groups, num_processes) if isinstance(protocol, TTTProtocol) else 0)


def padded_windows(batch: list[Window], context_tokens: int) -> float:
    """Return to how many whole windows a batch is padded."""
    return len(batch) * max(window.stop - window.start for window in batch) / context_tokens


def sgd_seconds(
    config: ModelConfig, protocol: TTTProtocol | GlobalPhase, groups: list[Group], num_processes: int
) -> float:
    """Return the seconds of chunk TTT's training: a part's gradient, the gathering of all, the update."""
    with fake_network(config, protocol.context_tokens) as model:
        learner = ChunkSGD(model, protocol, len(groups), torch.bfloat16, ALONE, map)
        ids_BT = torch.zeros(-(-protocol.batch_sequences // MOST_RANKS), protocol.context_tokens, dtype=torch.int64)
        part = count(lambda: learner._gradient(ids_BT, ids_BT, ids_BT.numel()))
        gradient_bytes = 4 * sum(parameter.numel() for parameter in learner.trainable)
    parts_per_process = -(-MOST_RANKS // num_processes)
    sequences = [(group.stop - group.start) // protocol.context_tokens for group in groups if not group.is_last]
    num_steps = protocol.epochs * sum(-(-number // protocol.batch_sequences) for number in sequences)
    # Each part is read, added to the sum and written; norm, momentum and update read and write about as much again.
    update = (3 * MOST_RANKS + 10) * gradient_bytes / BYTES_PER_SECOND
    gather = (num_processes - 1) * gradient_bytes / NVLINK_BYTES_PER_SECOND
    return num_steps * (parts_per_process * part.seconds(compiled=False) + update + gather)


def phase_seconds(
    config: ModelConfig, protocol: LoraProtocol | PhasedProtocol, groups: list[Group], num_processes: int
) -> float:
    """Return the seconds of the phase in which all weights learn, at most: each piece of a document is a whole row."""
    phase = next((group for group in groups if not group.windows), None)
    if phase is None or not isinstance(protocol, PhasedProtocol) or protocol.global_phase is None:
        return 0.0
    rule = protocol.global_phase
    pieces = 1 + rule.context_tokens * rule.documents / phase.stop
    chunks = chunk_groups(phase.stop, (), rule.chunk_tokens)
    return pieces * sgd_seconds(config, rule, chunks, num_processes)


def adapter_counts(config: ModelConfig, protocol: LoraProtocol | PhasedProtocol, steps: list[Step]) -> Iterator[Counts]:
    """Yield the counts of every pass: each step scores its chunks and, where documents go on, learns from them."""
    context = protocol.context_tokens
    one, two, half = (
        lora_counts(config, protocol, *shape) for shape in ((1, context), (2, context), (1, context // 2))
    )
    for step in (step for step in steps if step.batches):
        length = max(window.stop - window.start for window in step.batches[0])
        going = sum(group.start < group.stop and not group.is_last for group in step.groups)
        for at, documents in enumerate((len(step.groups), going)):
            if documents:
                yield _between(one[at], two[at], half[at], documents, length / context)


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


def project(path: Path) -> dict[str, Any]:
    """Return a recipe's projection on the challenge's shards: memory and seconds of a step, steps, evaluation."""
    params = load_params(path, ["model", "train", "launch", "evaluate"])
    processes, train = int(params.launch.num_processes), params.train
    sequences = train.batch_tokens // params.model.context_tokens // processes
    passes = math.ceil(sequences / (train.micro_batch_sequences or sequences))
    step = passes * training_counts(params.model).scaled(sequences / passes).seconds(train.compile)
    num_targets = VAL_TARGETS[params.model.vocab_size]
    return {
        "num_processes": processes,
        "memory_bytes": step_bytes(params.model, train, processes),
        "step_seconds": step,
        "steps": train.max_steps or round(((train.max_seconds or 0.0) - train.reserve_seconds) / step),
        "evaluate_seconds": {
            item: scoring_seconds(
                params.model, params.evaluate.protocols[item], params.evaluate.batch_tokens, processes, num_targets
            )
            for item in params.evaluate.items
        },
    }


def challenge_recipes() -> list[Path]:
    """Return the recipes that score the challenge's val split."""
    return [
        path
        for path in sorted((ROOT / "recipes").glob("*.yaml"))
        if load_params(path, ["data"]).data.source == "fineweb"
    ]


def main() -> None:
    """Project every recipe, print and record."""
    argparse.ArgumentParser(prog="python -m benchmarks.projection", description=__doc__.split("\n")[0]).parse_args()
    projected = {path.stem: project(path) for path in challenge_recipes()}
    for name, values in projected.items():
        print(name, values, flush=True)
    print(write_result("projection", "projected for H100 SXM", projected))


if __name__ == "__main__":
    main()
