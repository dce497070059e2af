"""The choice of an attention kernel, from made-up capabilities: no GPU and no flash package is needed."""

import pytest
import torch

from pipeline.model import backends
from pipeline.model.backends import attention_kernel, choose_attention, installed_flash_kernels, resolve_attention

EVERYTHING = {"flash-2", "flash-3", "flash-4"}


@pytest.mark.parametrize(
    ("capability", "installed", "bf16", "expected"),
    [
        (None, EVERYTHING, True, "sdpa"),
        ((7, 5), EVERYTHING, True, "sdpa"),
        ((9, 0), EVERYTHING, False, "sdpa"),
        ((9, 0), set(), True, "sdpa"),
        ((8, 0), EVERYTHING, True, "flash-2"),
        ((9, 0), {"flash-2"}, True, "flash-2"),
        ((9, 0), {"flash-2", "flash-4"}, True, "flash-2"),
        ((9, 0), EVERYTHING, True, "flash-3"),
        ((10, 0), EVERYTHING, True, "flash-2"),
        ((10, 0), {"flash-4"}, True, "sdpa"),
        ((12, 0), EVERYTHING, True, "flash-2"),
    ],
)
def test_auto_takes_the_best_that_runs(capability, installed, bf16, expected):
    assert choose_attention("auto", capability, installed, bf16) == expected


@pytest.mark.parametrize("capability", [None, (7, 0), (9, 0)])
def test_the_library_is_always_there(capability):
    assert choose_attention("sdpa", capability, EVERYTHING, True) == "sdpa"


def test_a_named_kernel_that_runs_is_taken():
    for name in EVERYTHING:
        assert choose_attention(name, (9, 0), EVERYTHING, True) == name


@pytest.mark.parametrize(
    ("name", "capability", "installed", "bf16", "message"),
    [
        ("flash-3", (9, 0), {"flash-2"}, True, r"flash-2 or auto.*flash_attn_interface"),
        ("flash-4", (9, 0), {"flash-2"}, True, r"flash-2 or auto.*flash_attn\.cute"),
        ("flash-3", (10, 0), EVERYTHING, True, r"flash-2 or auto.*runs on compute capability 9\.x.*has 10\.0"),
        ("flash-2", (7, 5), EVERYTHING, True, r"sdpa or auto.*has 7\.5"),
        ("flash-2", (9, 0), EVERYTHING, False, r"sdpa or auto.*train\.precision bf16"),
        ("flash-4", None, EVERYTHING, True, r"sdpa or auto.*GPUs only"),
        ("flash", (9, 0), EVERYTHING, True, "auto, sdpa"),
    ],
)
def test_a_named_kernel_is_never_replaced(name, capability, installed, bf16, message):
    with pytest.raises(ValueError, match=rf"^launch\.attention: got '{name}', expected .*{message}") as caught:
        choose_attention(name, capability, installed, bf16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("capability", "installed", "bf16", "kernel"),
    [
        ((9, 0), EVERYTHING, True, "flash-2"),
        ((9, 0), {"flash-3"}, True, "sdpa"),
        ((7, 5), EVERYTHING, True, "sdpa"),
        ((9, 0), EVERYTHING, False, "sdpa"),
    ],
)
def test_scoring_takes_the_flash_kernel_of_torch_and_no_other(capability, installed, bf16, kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(backends, "installed_flash_kernels", lambda: installed)
    assert backends.scoring_attention(torch.device("cuda"), bf16) == kernel
    assert backends.scoring_attention(torch.device("cpu"), bf16) == "sdpa"


def test_this_machine_has_an_answer():
    assert installed_flash_kernels() <= EVERYTHING
    cpu = torch.device("cpu")
    assert resolve_attention("auto", cpu, bf16=True) == "sdpa"
    with attention_kernel("sdpa"):
        pass


@pytest.mark.skipif("flash-3" in installed_flash_kernels(), reason="needs a machine without the package")
def test_a_package_that_does_not_load_is_named():
    refused = pytest.raises(ValueError, match="flash-3: the package flash_attn_interface does not load")
    with refused, attention_kernel("flash-3"):
        pass
