"""Float checkpoints of community scripts, read as Fairway networks.

A layout is a table of constructor arguments and a table of tensor names. What the network cannot express, and any
tensor that is missing, extra or misshapen, is refused by name: a checkpoint that loads computes what its own program
computed. Tensors that the program itself never reads are kept apart, under `unread.<name>`, or dropped on request.

Source: the layouts' modules.
Differs: the rotary base follows `context_tokens`, where the published programs follow the tensor's length.
Checked by: tests/interop/test_interop.py, tests/interop/test_interop_published.py
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.base.checks import require
from pipeline.base.progress import Log
from pipeline.interop.crawler import translate_crawler
from pipeline.interop.crawler_pervisit import translate_pervisit
from pipeline.interop.looped_unet import translate_looped_unet
from pipeline.interop.state_dict import read_state_dict
from pipeline.interop.translation import Translation, unread_name
from pipeline.model.checkpoint import check_dense, check_finite, name_misfits, network_shapes
from pipeline.model.config import ModelConfig

LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Translation]] = {
    "crawler": translate_crawler,
    "crawler-pervisit": translate_pervisit,
    "looped-unet": translate_looped_unet,
}
"""Family of programs -> translation of its constructor arguments."""


def _say_nothing(line: str) -> None:
    """Take a log line and leave it."""


def load_community(
    path: str | Path, layout: str, config: Mapping[str, Any], *, drop_unread: bool = False, log: Log = _say_nothing
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a community checkpoint.

    Args:
        path: `.safetensors`, or `.pt` / `.pth` (loaded weights-only) holding a state dict, see `state_dict.py`.
        layout: name of the program's family, one of `LAYOUTS`.
        config: the program's constructor arguments, plus an optional `context_tokens`.
        drop_unread: leave out what no forward pass reads, instead of keeping it under `unread.<name>`.
        log: is told the names of unread tensors, kept or dropped, and what was unwrapped.

    Returns:
        The network's configuration and float32 tensors that it loads strictly.

    Raises:
        ValueError: an unknown layout, argument or feature, or tensors that do not fit the arguments or are not dense,
            floating-point and finite.
    """
    check_layout(layout, "layout")
    translation, path = LAYOUTS[layout](config), Path(path)
    stored = read_state_dict(path, log)
    for name, tensor in stored.items():
        check_dense(name, tensor, f"checkpoint: {path}")
    tensors = translation.reshape(_without_copies(stored, translation, path))
    tensors = {name: tensor for name, tensor in tensors.items() if tensor.numel()}  # such as weights of no skips
    what = f"checkpoint: {path} does not fit its config"
    wanted = _wanted_tensors(translation, tensors, what)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    misfit = name_misfits({name: shape for name, (_, shape) in wanted.items()}, shapes)
    if misfit:
        raise ValueError(f"{what}: {misfit}")
    for name in wanted:
        check_finite(name, tensors[name], f"checkpoint: {path}")

    unread = {name: shape for name, shape in translation.unread.items() if name in tensors}
    if unread:
        done = "dropped" if drop_unread else "kept"
        log(f"{done} {len(unread)} tensors that no forward pass reads: {', '.join(unread)}")
    kept = {} if drop_unread else {unread_name(name): shape for name, shape in unread.items()}
    state = {
        ours: tensors[published].to(torch.float32).contiguous()
        for published, (ours, _) in wanted.items()
        if not (drop_unread and published in unread)
    }
    return dataclasses.replace(translation.config, unread=kept), state


def check_layout(layout: object, field: str) -> None:
    """Raise ValueError, naming `field` and the nearest layout, unless a family of programs is called so."""
    nearest = difflib.get_close_matches(str(layout)[:60], LAYOUTS, n=1, cutoff=0)[0]
    require(layout in [*LAYOUTS], field, layout, f"one of {', '.join(LAYOUTS)} (nearest: {nearest})")


def _wanted_tensors(
    translation: Translation, tensors: Mapping[str, Tensor], what: str
) -> dict[str, tuple[str, torch.Size]]:
    """Return our name and the shape of every published tensor that the checkpoint must hold."""
    network = network_shapes(translation.config, len(tensors), what)
    wanted = {translation.published_name(ours): (ours, shape) for ours, shape in network.items()}
    assert len(wanted) == len(network), "two of our tensors have one published name"
    for published, shape in translation.unread.items():
        if published in tensors or published not in translation.may_lack:
            wanted[published] = (f"unread.{unread_name(published)}", torch.Size(shape))
    return wanted


def _without_copies(tensors: dict[str, Tensor], translation: Translation, path: Path) -> dict[str, Tensor]:
    """Return the tensors without those that share another one's weights; ValueError when a copy differs."""
    kept = dict(tensors)
    for copy_prefix, prefix in translation.same_as.items():
        for name in [name for name in kept if name.startswith(copy_prefix)]:
            original = tensors.get(prefix + name.removeprefix(copy_prefix))
            if original is None or not torch.equal(original, kept.pop(name)):
                raise ValueError(f"checkpoint: {path}: {name} differs from {prefix}*, whose weights it shares")
    return kept
