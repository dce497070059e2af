"""What a pass asks of a GPU, counted where there is none.

One idea: a pass is run on fake tensors, which have shapes and no numbers, and every operation that computes is
counted: kernels, bytes read and written, multiply-adds. It takes as long as the slowest of three: starting its kernels,
moving its bytes, multiplying. A compiled pass starts no kernel by itself and moves the operands of its products twice:
one fused kernel between two products reads what one wrote and writes what the other reads.

A compiled training step does the two one after the other: what fused kernels keep for the backward pass is as much
again. Optimizer and collectives are in the machine's factor.

Checked by: tests/projection/test_counts.py
"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.model.config import ModelConfig
from pipeline.model.loss import CHUNK_LOGITS
from pipeline.model.network import LoopedUNet
from pipeline.projection.machines import Machine
from pipeline.scoring.evaluate import nats_of_whole_windows

FREE = (
    *("view", "unsafe_view", "expand", "permute", "transpose", "t.", "slice", "select", "split", "unbind", "detach"),
    *("alias", "empty", "unsqueeze", "squeeze", "pow", "mean", "add_.Scalar", "rsqrt"),
)
"""Operations that start no kernel: views, and the parts of a norm, which a GPU computes in one with its product."""
_ATTENTION = "scaled_dot_product_"
_ATTENTION_PRODUCTS = 2
_BACKWARD_PRODUCTS = 5
"""Products of queries and keys in attention's passes; the second computes the scores anew."""


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

    def seconds(self, machine: Machine, compiled: bool) -> float:
        """Return how long the pass takes on one device."""
        moved = 2 * self.product_bytes if compiled else self.bytes
        launched = 0.0 if compiled else self.launches * machine.launch_seconds
        return max(launched, moved / machine.bytes_per_second, self.flops / machine.flops_per_second)

    def training_seconds(self, machine: Machine, compiled: bool) -> float:
        """Return how long a step takes on one device, of which these are forward and backward pass."""
        if not compiled:
            return machine.training_factor * self.seconds(machine, compiled)
        moving = self.product_bytes / machine.bytes_per_second
        products = max(moving, self.flops / machine.flops_per_second)
        return machine.training_factor * (products + moving)


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.product_bytes, self.flops = 0, 0, 0, 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function).removeprefix("aten.").lstrip("_")
        if function.namespace != "aten" or name.startswith(FREE):
            return result
        tensors = [each for each in torch.utils._pytree.tree_leaves((args, result)) if isinstance(each, torch.Tensor)]
        moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.launches += 1
        self.bytes += moved
        if name.startswith(_ATTENTION):
            self.product_bytes += moved
            self.flops += attention_flops(args, "backward" in name)
        elif function.overloadpacket in flop_registry:
            self.product_bytes += moved
            self.flops += flop_registry[function.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


def attention_flops(args: tuple[Any, ...], backward: bool) -> float:
    """Return those of causal attention: what lies in the future is not multiplied.

    `args`: of a pass forward, queries (B, H, T, E), the last of as many as the keys (B, G, S, E); backward, the
    gradient of the output before them.
    """
    q_BHTE, k_BGSE = args[backward : 2 + backward]
    pairs = q_BHTE.size(2) * (k_BGSE.size(2) - q_BHTE.size(2) / 2)
    products = _BACKWARD_PRODUCTS if backward else _ATTENTION_PRODUCTS
    return 2 * products * pairs * q_BHTE.size(0) * q_BHTE.size(1) * q_BHTE.size(3)


def count(run: Callable[[], object]) -> Counts:
    """Return the counts of a call on fake tensors under bf16 autocast."""
    with _Counter() as counter:
        run()
    return Counts(counter.launches, counter.bytes, counter.product_bytes, counter.flops)


@contextmanager
def fake_network(config: ModelConfig, context_tokens: int) -> Iterator[LoopedUNet]:
    """Yield a network of fake tensors, inside their mode; logits come in a GPU's chunks.

    Documents of a sequence are not kept apart: a kernel that does so multiplies less, and needs no mask.
    """
    across = dataclasses.replace(config, attention=dataclasses.replace(config.attention, document_bos_id=None))
    with torch.device("meta"):
        model = LoopedUNet(across)
    own = CHUNK_LOGITS["cpu"]
    CHUNK_LOGITS["cpu"] = CHUNK_LOGITS["cuda"]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
            model.to_empty(device="cpu").set_context(context_tokens)
            yield model.eval()
    finally:
        CHUNK_LOGITS["cpu"] = own


def forward_counts(config: ModelConfig, context_tokens: int, num_scored: int) -> Counts:
    """Return the counts of scoring one window."""
    with fake_network(config, context_tokens) as model, torch.no_grad():
        ids_BT = torch.zeros(1, context_tokens, dtype=torch.int64)
        return count(lambda: nats_of_whole_windows(model, ids_BT, ids_BT[0, :num_scored]))


def training_counts(config: ModelConfig, sequences: int, context_tokens: int, loops: int | None) -> Counts:
    """Return the counts of forward and backward pass over a batch, with so many loops active; None: all."""
    with fake_network(config, config.context_tokens) as model:
        model.set_active_loops(loops)
        ids_BT = torch.zeros(sequences, context_tokens, dtype=torch.int64)
        return count(lambda: model(ids_BT, ids_BT).backward())
