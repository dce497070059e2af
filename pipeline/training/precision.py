"""In which number format training multiplies: bfloat16 where the hardware has such products, else float32.

One idea: the choice is a pure function of the name asked for and of what the device can do, and everything that
multiplies in low precision follows it: autocast, Newton-Schulz, the directions that ranks exchange, flash attention. A
processor without bfloat16 products emulates them, some fifty times slower than it multiplies in float32.

Source: torch.cpu.get_capabilities; oneDNN's own answer, which honours ONEDNN_MAX_CPU_ISA.
Differs: capabilities are asked for by name, not measured: equal machines choose alike, however busy they are.
Checked by: tests/training/test_precision.py.
"""

from collections.abc import Collection, Mapping
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
BF16: Precision = "bf16"
FP32: Precision = "fp32"
DTYPES: dict[str, torch.dtype] = {BF16: torch.bfloat16, FP32: torch.float32}
"""What products are taken in; auto is nothing to multiply in."""
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Capabilities of x86 and ARM processors that multiply bfloat16 themselves, as torch calls them."""


def choose_precision(name: Literal["auto"] | Precision, native: bool) -> Precision:
    """Return bf16 or fp32 for `train.precision`, one of these or auto: bf16 where its products are `native`."""
    if name == "auto":
        return BF16 if native else FP32
    return name


def cpu_has_bf16(capabilities: Collection[str], library_agrees: bool) -> bool:
    """Return whether a processor multiplies bfloat16 itself and the library that would do it uses that."""
    return library_agrees and any(name in capabilities for name in NATIVE_BF16)


def has_native_bf16(device: torch.device) -> bool:
    """Return whether products in bfloat16 are the device's own, not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    onednn = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    known: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch
    return cpu_has_bf16([name for name, has in known.items() if has is True], onednn)


def resolve_precision(name: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """Return bf16 or fp32 for `train.precision` on this device."""
    return choose_precision(name, has_native_bf16(device))


def precision_warning(name: str, device: torch.device) -> str | None:
    """Return one line where bf16 was asked for by name and would be emulated; None elsewhere."""
    if name != BF16 or has_native_bf16(device):
        return None
    return (
        f"warning: train.precision: got bf16, which this {device.type} emulates, many times slower than fp32; "
        "auto takes what is fast here"
    )
