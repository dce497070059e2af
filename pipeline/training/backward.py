"""One rank's share of a batch, forward and backward, and the warm-up that compiles it.

The one idea: the loss is a pure function of tokens, so compiling, splitting into micro batches and warming up on other
tokens change nothing but time and memory.

Axes: B sequences of this rank, T position. A sequence of a batch holds T + 1 tokens: inputs and, one later, targets.

Checked by: tests/training/test_backward.py, tests/training/test_loop.py.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.base.checks import FairwayError
from pipeline.model.documents import rows_for
from pipeline.model.network import LoopedUNet

Backward = Callable[[Tensor], Tensor]
"""Adds a rank's gradients of the mean nats per target of tokens (B, T + 1), wherever they lie, and returns that mean,
detached."""


class DeviceMemoryError(FairwayError):
    """A forward or backward pass does not fit into the GPU's memory."""


def build_backward(
    model: nn.Module,
    device: torch.device,
    *,
    bf16: bool,
    compiled: bool,
    micro_batch_sequences: int | None,
    longest_tokens: int | None = None,
) -> Backward:
    """Return the function that runs a rank's share of a batch forward and backward, micro batch by micro batch.

    `model` maps ids (B, T) and targets (B, T) to their mean nats; `longest_tokens` is a sequence's length at the end of
    the run, where that is another. Raises DeviceMemoryError when a pass does not fit.
    """

    def mean_nats_of(tokens_BT: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return model(tokens_BT[:, :-1], tokens_BT[:, 1:])

    part_loss = torch.compile(mean_nats_of, fullgraph=True, dynamic=False) if compiled else mean_nats_of

    def backward(tokens_BT: Tensor) -> Tensor:
        parts = tokens_BT.split(micro_batch_sequences or len(tokens_BT))
        total_loss = torch.zeros((), device=device)
        try:
            for part_BT in parts:
                # Sequences are of equal length: weighted by its share of them, a part's mean adds up to the whole's.
                loss = part_loss(part_BT.to(device, non_blocking=True)) * (len(part_BT) / len(tokens_BT))
                loss.backward()
                total_loss += loss.detach()
        except torch.OutOfMemoryError:
            raise DeviceMemoryError(
                f"a pass over {len(parts[0])} sequences does not fit into the GPU's memory; "
                f"{_how_to_halve(parts[0][:, 1:], longest_tokens)}"
            ) from None
        return total_loss

    return backward


def _how_to_halve(ids_BT: Tensor, longest_tokens: int | None) -> str:
    """Return the setting under which no pass of a run has more than half of the tokens of this one."""
    half = ids_BT.numel() // (2 * (longest_tokens or ids_BT.size(1)))
    shorter = "shorten model.context_tokens, and train.context_stages where set"
    return f"set train.micro_batch_sequences to {half}" if half else shorter


def with_room(backward: Backward, model: LoopedUNet, micro_batch_sequences: int | None) -> Backward:
    """Return `backward` in which the model has room for the documents of the tokens, which lie on the CPU."""
    rows = 0

    def with_documents(tokens_BT: Tensor) -> Tensor:
        nonlocal rows
        for part_BT in tokens_BT.split(micro_batch_sequences or len(tokens_BT)):
            rows = rows_for(model.config, rows, part_BT)
        model.document_rows = rows
        try:
            return backward(tokens_BT)
        finally:
            model.document_rows = 0  # whoever compiles the model for other batches has no table

    return with_documents


def warm_up(
    model: LoopedUNet, backward: Backward, shape_BT: tuple[int, int], average_gradients: Callable[[Tensor], object]
) -> None:
    """Compile, and open the connections between ranks, before the clock starts; weights stay as they are.

    The tokens are random ids in the shape of a batch: nothing of the corpus is learned or measured, and lookups spread
    over the tables as they will in training. The global generator is untouched.
    """
    generator = torch.Generator().manual_seed(0)
    random_BT = torch.randint(model.config.vocab_size, shape_BT, generator=generator)
    for _ in range(2):
        loss = backward(random_BT)
        average_gradients(loss)
        loss.item()
        model.zero_grad(set_to_none=True)
