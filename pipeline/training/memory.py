"""What a training step will need of a GPU's memory, counted where there is none.

One idea: run the forward pass on fake tensors, which have shapes and no data, and add up what autograd keeps. Beside
that lie the weights, what belongs to them for the whole run, and the loss's chunk of logits. What the optimizer step
needs is less: it begins when the activations are gone.

    state         weights, gradients, moments, momentum, average, copies of perturbed weights
    activations   what one micro batch's forward pass leaves for its backward pass
    logits        of one chunk of the loss, in several versions

Source: full-size passes under torch 2.11's CUDA allocator: the estimate was 18 to 24 % above the most bytes allocated
    in compiled ones, which keep less.
Differs: the fake tensors lie on a CPU; what CUDA's autocast does otherwise, and the flash kernel, are put in their
    place. The CUDA context and the buffers of NCCL are not counted.
Checked by: tests/training/test_memory.py.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from pipeline.model.config import ModelConfig
from pipeline.model.loss import CHUNK_LOGITS
from pipeline.model.network import LoopedUNet
from pipeline.optim.groups import parameter_groups
from pipeline.training.config import TrainConfig
from pipeline.training.loop import sequences_per_process
from pipeline.training.precision import FP32
from pipeline.training.quant_aware import grid_weights

_LOGIT_BYTES = 20
"""Of a logit, at the worst moment: what a chunk of the loss makes, and what is left of the chunk before."""
_IS_CUDA = torch.Tensor.is_cuda.__get__  # type: ignore[attr-defined]
_CAST_TO_FLOAT32 = ("rms_norm", "normalize", "norm", "sum")
"""Functions that autocast runs in float32 on CUDA and not on a CPU."""


def step_bytes(model: ModelConfig, train: TrainConfig, world_size: int) -> int:
    """Return the bytes that a training step allocates at most on the GPU of one of `world_size` processes.

    Precision `auto` counts as bf16. Raises ValueError for a batch that does not divide into sequences over processes.
    """
    share = sequences_per_process(train, model.context_tokens, world_size)
    num_tokens = min(share, train.micro_batch_sequences or share) * model.context_tokens
    num_logits = min(CHUNK_LOGITS["cuda"], num_tokens * model.vocab_size)
    with torch.device("meta"):
        network = LoopedUNet(model)
    activations = activation_bytes(network, num_tokens, bf16=train.precision != FP32)
    return state_bytes(network, train) + activations + _LOGIT_BYTES * num_logits


def state_bytes(network: nn.Module, train: TrainConfig) -> int:
    """Return the bytes that belong to the weights, all in float32, on a single process."""
    groups, parameters = parameter_groups(network), list(network.parameters())
    averaged = parameters if train.average else []
    perturbed = [entry.weight for entry in grid_weights(network, train.quantization)] if train.quantization else []
    moments = [*groups.matrices, *(2 * [*groups.tables, *groups.controls])]
    kept = [*parameters, *parameters, *moments, *averaged, *perturbed]  # the second time, the gradients
    return sum(parameter.nbytes for parameter in kept)


def activation_bytes(network: LoopedUNet, num_tokens: int, *, bf16: bool) -> int:
    """Return the bytes that autograd keeps of a forward pass up to the head, bf16 copies of weights included."""
    kept: dict[Any, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage] = storage.nbytes()
        return tensor

    with FakeTensorMode(), _CudaRules(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        tensors = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, requires_grad=isinstance(tensor, nn.Parameter))
            for name, tensor in (*network.named_parameters(), *network.named_buffers())
        }
        # What is kept grows with the tokens, however many sequences they make: in one, no path for short ones is taken.
        ids_BT = torch.empty(1, num_tokens, dtype=torch.int64)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            functional_call(_Hidden(network), {f"network.{name}": tensor for name, tensor in tensors.items()}, ids_BT)
        weights = {tensor.untyped_storage() for tensor in tensors.values()}
        return sum(num_bytes for storage, num_bytes in kept.items() if storage not in weights)


class _Hidden(nn.Module):
    """The network up to its head: the loss is counted by itself."""

    def __init__(self, network: LoopedUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.network.hidden(ids_BT)


class _FlashAttention(torch.autograd.Function):
    """What a flash kernel keeps: its inputs, its output, a float32 per query; it computes nothing."""

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor) -> Tensor:
        y_BHTE = torch.empty_like(q_BHTE)
        ctx.save_for_backward(q_BHTE, k_BGTE, v_BGTE, y_BHTE, q_BHTE.new_empty(q_BHTE.shape[:-1], dtype=torch.float32))
        return y_BHTE


class _CudaRules(TorchFunctionMode):
    """Lets functions on a CPU keep what they keep on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _IS_CUDA:
            return True
        if func is F.scaled_dot_product_attention:
            return _FlashAttention.apply(*args)
        if func.__name__ in _CAST_TO_FLOAT32:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))
