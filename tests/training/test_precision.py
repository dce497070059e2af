"""Precision by capability: the rule, both decisions on this processor, and that everything in a run follows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.optim.muon import Muon
from pipeline.training.backward import build_backward
from pipeline.training.optimizer_step import OptimizerStep
from pipeline.training.precision import (
    BF16,
    choose_precision,
    cpu_has_bf16,
    has_native_bf16,
    precision_warning,
    resolve_precision,
)
from tests.training.tiny_run import ALONE, train_config

ORDINARY = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""Variables that make a fast processor behave like one without bfloat16 products."""
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "native", "chosen"),
    [("auto", True, "bf16"), ("auto", False, "fp32"), ("bf16", False, "bf16"), ("fp32", True, "fp32")],
)
def test_only_auto_asks_the_hardware(name: str, native: bool, chosen: str):
    assert choose_precision(name, native) == chosen


@pytest.mark.parametrize(
    ("capabilities", "library_agrees", "has"),
    [
        (["avx2", "fma3"], True, False),
        (["avx2", "avx512_f", "avx512_bw"], True, False),
        (["avx512_f", "avx512_bf16"], True, True),
        (["avx512_f", "amx_bf16"], True, True),
        (["neon", "bf16"], True, True),
        (["neon", "fp16_arith"], True, False),
        (["avx512_f", "avx512_bf16"], False, False),
    ],
)
def test_processors_with_products_of_their_own(capabilities: list[str], library_agrees: bool, has: bool):
    assert cpu_has_bf16(capabilities, library_agrees) is has


def decision(**variables: str) -> list:
    """Return the precision that a fresh process chooses and its warning for bf16 by name."""
    code = (
        "import json, torch; from pipeline.training.precision import *; cpu = torch.device('cpu'); "
        "print(json.dumps([resolve_precision('auto', cpu), precision_warning('bf16', cpu)]))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ORDINARY}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).resolve().parents[2],
        check=True,
        env={**environment, **variables},
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def test_an_ordinary_processor_trains_in_fp32_and_is_warned_of_bf16():
    precision, warning = decision(**ORDINARY)
    assert precision == "fp32"
    assert warning.startswith("warning: train.precision: got bf16, which this cpu emulates")
    assert "\n" not in warning


@pytest.mark.skipif(not has_native_bf16(CPU), reason="needs a processor with AVX512-BF16, AMX-BF16 or ARM BF16")
def test_a_processor_with_bf16_trains_in_it_unwarned():
    assert decision() == ["bf16", None]


def test_this_process_decides_as_the_rule_says():
    assert resolve_precision("auto", CPU) == choose_precision("auto", has_native_bf16(CPU))
    assert precision_warning("auto", CPU) is None
    assert precision_warning("fp32", CPU) is None


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_forward_pass_and_muon_multiply_in_the_named_precision(precision: str, dtype: torch.dtype):
    seen = []

    class Probe(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.nn.Linear(4, 4, bias=False)

        def forward(self, ids_BT: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            out = self.matrix(ids_BT.float())
            seen.append(out.dtype)
            return out.float().mean()

    config, model = train_config(precision=precision), Probe()
    step = OptimizerStep(model, config, ALONE)
    backward = build_backward(model, CPU, bf16=precision == BF16, compiled=False, micro_batch_sequences=None)
    step.take(backward(torch.arange(20).view(4, 5)))
    muon = step.optimizers[-1]
    assert isinstance(muon, Muon)
    assert seen == [dtype]
    assert muon.dtype == dtype
    gradient = torch.randn(4, 4)
    model.matrix.weight.grad = gradient
    assert muon._directions([model.matrix.weight], 0.9).dtype == dtype
