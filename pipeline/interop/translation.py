"""What a layout knows about a checkpoint: the network it is, and which published tensor becomes which of ours.

Checked by: tests/interop/test_interop.py, tests/interop/test_interop_published.py
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pipeline.model.config import ModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Translation:
    """One checkpoint's network and names."""

    config: ModelConfig
    """The network, without unread tensors."""
    published_name: Callable[[str], str]
    """Our tensor name -> the published one."""
    unread: dict[str, Shape]
    """Published tensors that no forward pass reads."""
    may_lack: frozenset[str] = frozenset()
    """Those of them that a checkpoint may come without."""
    same_as: dict[str, str] = field(default_factory=dict)
    """Published prefix -> prefix that holds the same tensors once more (shared weights)."""
    reshape: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    """Splits published tensors that are several of ours."""


def unread_name(published: str) -> str:
    """Return the name, in the section `unread`, of a published tensor."""
    return published.replace(".", "_").lower()


def rename(name: str, patterns: Mapping[str, str]) -> str:
    """Return `name` with the first regular expression that matches its start replaced."""
    for pattern, replacement in patterns.items():
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    return name


BLOCK_TENSORS = {
    r"attention\.query\.": "attn.c_q.",
    r"attention\.key\.": "attn.c_k.",
    r"attention\.value\.": "attn.c_v.",
    r"attention\.output\.": "attn.proj.",
    r"attention\.gain$": "attn.q_gain",
    r"attention_scale$": "attn_scale",
    r"residual_mix$": "resid_mix",
    r"mlp\.up\.": "mlp.fc.",
    r"mlp\.down\.": "mlp.proj.",
    r"mlp\.stage\.": "mlp.stage1.",
    r"mlp\.choke_down\.(\d+)\.groups\.(\d+)\.weight$": r"mlp.group_w.\1.\2",
}
"""Our name within a block -> published; all layouts agree."""


def block_name(name: str, unique_blocks: int, unique: str, looped: str) -> str | None:
    """Return the published name of a block's tensor, or None for a tensor of no block."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match is None:
        return None
    index, rest = int(match[1]), rename(match[2], BLOCK_TENSORS)
    owner = f"{unique}.{index}" if index < unique_blocks else f"{looped}.{index - unique_blocks}"
    return f"{owner}.{rest}"
