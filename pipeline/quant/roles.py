"""Which tensor of a model is quantized how, decided by the module that owns it, never by name patterns.

Roles: `matrix` (weight of an nn.Linear: GPTQ), `embedding` (the tied token embedding: GPTQ with the head's moment),
`table` (any other nn.Embedding: nearest rounding), `passthrough` (everything else: float16).

Source: ours.
Checked by: tests/quant/test_calibrate_and_fit.py.
"""

from typing import Literal

from torch import nn

from pipeline.model.attention import Attention
from pipeline.model.mlp import MLP
from pipeline.model.network import LoopedUNet

Role = Literal["matrix", "embedding", "table", "passthrough"]


def tensor_roles(model: nn.Module) -> dict[str, Role]:
    """Return the role of every state-dict entry of `model`, in state-dict order."""
    roles: dict[str, Role] = {}
    for prefix, module in model.named_modules():
        role: Role | None = None
        if isinstance(module, nn.Linear):
            role = "matrix"
        elif isinstance(module, nn.Embedding):
            role = "embedding" if module is getattr(model, "token_embedding", None) else "table"
        if role is not None:
            roles[f"{prefix}.weight"] = role
    return {name: roles.get(name, "passthrough") for name in model.state_dict()}


def code_owners(model: LoopedUNet) -> dict[str, str]:
    """Return the field of `CodeBits` that every quantized tensor of `model` belongs to."""
    looped = tuple(f"blocks.{index}." for index in model.schedule.looped)
    parts = {Attention: "attention", MLP: "mlp"}
    inside = {f"{prefix}.": parts[type(module)] for prefix, module in model.named_modules() if type(module) in parts}
    owners: dict[str, str] = {}
    for name, role in tensor_roles(model).items():
        if role == "matrix":
            part = next((part for prefix, part in inside.items() if name.startswith(prefix)), "other")
            owners[name] = "looped" if name.startswith(looped) else part
        elif role != "passthrough":
            owners[name] = role
    return owners
