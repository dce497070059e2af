"""Which kernel computes attention on a GPU: FlashAttention 4, 3 or 2, or whatever the library picks.

One idea: a choice is a pure function of the name asked for, the GPU's compute capability, the precision and the
kernels that are installed. A name that cannot be had is an error; only `auto` chooses, between 3, 2 and the library.
All kernels stand behind `scaled_dot_product_attention`, so the network and the compiler see one operation:
FlashAttention 2 is built into torch, 3 and 4 come with packages of their own, imported only when chosen, and take its
place for the length of a block.

Source: torch.nn.attention; FlashAttention arXiv 2307.08691, 2407.08608.
Differs: float32 never takes a flash kernel, and a CPU has none: there the choice is `sdpa`.
Checked by: tests/model/test_backends.py
"""

import contextlib
import importlib.util
from collections.abc import Collection, Iterator

import torch
import torch.nn.attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.base.checks import require

SDPA, FLASH_2, FLASH_3, FLASH_4 = "sdpa", "flash-2", "flash-3", "flash-4"
FLASH_GENERATIONS = {FLASH_2: (8, 9, 10, 12), FLASH_3: (9,), FLASH_4: (9, 10)}
"""Kernel -> major compute capabilities of the GPUs it runs on."""
FLASH_PACKAGES = {FLASH_3: ("FA3", "flash_attn_interface"), FLASH_4: ("FA4", "flash_attn.cute")}
"""Kernel -> torch's name for it and the module that brings it."""
PREFERENCE = (FLASH_3, FLASH_2)
"""What `auto` tries; 4, which compiles itself while it runs, is taken by name alone."""


def choose_attention(name: str, capability: tuple[int, int] | None, installed: Collection[str], bf16: bool) -> str:
    """Return sdpa, flash-2, flash-3 or flash-4.

    Args:
        name: one of these, or auto.
        capability: compute capability of the GPU; None on a CPU.
        installed: the flash kernels that can be imported.
        bf16: whether training runs in bfloat16.

    Raises ValueError saying what a named kernel lacks and which name would do.
    """
    require(name in ("auto", SDPA, *FLASH_GENERATIONS), "launch.attention", name, "auto, sdpa, flash-2, -3 or -4")
    usable = (kernel for kernel in PREFERENCE if not _obstacle(kernel, capability, installed, bf16))
    best = next(usable, SDPA)
    if name in ("auto", SDPA):
        return best if name == "auto" else SDPA
    obstacle = _obstacle(name, capability, installed, bf16)
    require(not obstacle, "launch.attention", name, f"{best} or auto: {obstacle}")
    return name


def _obstacle(kernel: str, capability: tuple[int, int] | None, installed: Collection[str], bf16: bool) -> str:
    """Return what keeps a flash kernel from running; empty when nothing does."""
    majors = FLASH_GENERATIONS[kernel]
    if capability is None:
        return "flash kernels run on GPUs only"
    if not bf16:
        return "flash kernels need train.precision bf16"
    if capability[0] not in majors:
        (major, minor), needed = capability, " or ".join(f"{m}.x" for m in majors)
        return f"it runs on compute capability {needed}, this GPU has {major}.{minor}"
    if kernel not in installed:
        return "torch has no such kernel" if kernel == FLASH_2 else f"no package {FLASH_PACKAGES[kernel][1]} for torch"
    return ""


def installed_flash_kernels() -> set[str]:
    """Return the flash kernels that torch has or whose packages are installed; nothing is imported."""
    # Without a way back, scoring would run on the kernel that training chose.
    reversible = hasattr(torch.nn.attention, "restore_flash_attention_impl")
    known = torch.nn.attention.list_flash_attention_impls() if reversible else []
    found = {FLASH_2} if torch.backends.cuda.is_flash_attention_available() else set()
    return found | {kernel for kernel, (impl, module) in FLASH_PACKAGES.items() if impl in known and _exists(module)}


def resolve_attention(name: str, device: torch.device, bf16: bool) -> str:
    """Return the kernel for `launch.attention` on this machine; raises ValueError as `choose_attention` does."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    return choose_attention(name, capability, installed_flash_kernels(), bf16)


def scoring_attention(device: torch.device, bf16: bool) -> str:
    """Return the kernel that scores: FlashAttention 2, which no package changes, wherever it runs."""
    if device.type != "cuda":
        return SDPA
    installed = {FLASH_2} & installed_flash_kernels()
    return choose_attention("auto", torch.cuda.get_device_capability(device), installed, bf16)


@contextlib.contextmanager
def attention_kernel(kernel: str) -> Iterator[None]:
    """Let every attention inside the block run on `kernel`, one that `resolve_attention` returned, or fail.

    Raises ValueError when the package of the kernel is there and cannot be used.
    """
    if kernel == SDPA:
        yield
        return
    if kernel in FLASH_PACKAGES:
        impl, module = FLASH_PACKAGES[kernel]
        try:
            torch.nn.attention.activate_flash_attention_impl(impl)
        except (ImportError, RuntimeError, AttributeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"launch.attention: {kernel}: the package {module} does not load: {reason}") from None
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            yield
    finally:
        if kernel in FLASH_PACKAGES:
            torch.nn.attention.restore_flash_attention_impl()


def _exists(module: str) -> bool:
    """Tell whether a module can be found; its parent package is imported, the module itself is not."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
