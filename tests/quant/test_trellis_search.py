"""The Viterbi search against all paths, and GPTQ along paths."""

import itertools
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from pipeline.base.config import load_params
from pipeline.codec.trellis import TRELLIS_STATES, next_state, unions
from pipeline.quant.config import TrellisStates
from pipeline.quant.gptq import factorise, proxy_loss, round_to_nearest, solve_stack
from pipeline.quant.trellis_search import PathSearch


def test_a_configuration_can_name_every_trellis(repo, tmp_path):
    assert get_args(TrellisStates) == TRELLIS_STATES
    text = (repo / "params.yaml").read_text()
    assert text.count("trellis_states: 32 ") == 1
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("trellis_states: 32 ", "trellis_states: 9 "))
    with pytest.raises(ValueError, match=r"^quantize\.trellis_states: got 9, expected 4 or 8 or 16 or 32 or 64"):
        load_params(path, ["quantize"])
    # Reading a configuration loads no codec.
    code = "import sys; import pipeline.quant.config; print('numpy' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True).stdout
    assert shown == "False\n"


def least_distance(wanted_R, states):
    """Return the least squared distance of all paths whose codes are at most 5 away."""
    least = np.inf
    for choice in itertools.product(range(10), repeat=len(wanted_R)):
        state, distance = 0, 0.0
        for wanted, turn in zip(wanted_R, choice, strict=True):
            code = int(np.floor(wanted)) - 4 + turn
            if (code - state) & 1:
                break
            distance += (wanted - code) ** 2
            state = int(next_state(np.int64(state), np.int64(code >> 1), states))
        else:
            least = min(least, distance)
    return least


@pytest.mark.parametrize("states", TRELLIS_STATES)
def test_the_search_finds_the_nearest_of_all_paths(states):
    wanted_RN = np.random.default_rng(states).normal(size=(4, 3)) * 3
    code_RN = PathSearch([4], np.ones(4, bool), states).codes(wanted_RN)
    for wanted_R, code_R in zip(wanted_RN.T, code_RN.T, strict=True):
        assert ((wanted_R - code_R) ** 2).sum() == pytest.approx(least_distance(wanted_R, states), abs=1e-6)
    assert np.array_equal(unions(code_RN.astype(np.int64), states), code_RN.astype(np.int64) & 1)


def test_tensors_below_each_other_are_searched_as_if_alone():
    generator = np.random.default_rng(0)
    sizes, on_path_R = [5, 300, 1, 130, 7], generator.random(443) < 0.7
    on_path_R[-7:] = False  # a tensor without any path
    wanted_RN = generator.normal(size=(443, 3)) * 4
    together_RN = PathSearch(sizes, on_path_R, 8).codes(wanted_RN)
    starts = np.cumsum([0, *sizes])
    for start, stop in itertools.pairwise(starts):
        alone_RN = PathSearch([stop - start], on_path_R[start:stop], 8).codes(wanted_RN[start:stop])
        assert np.array_equal(together_RN[start:stop], alone_RN)
        on_path_N = on_path_R[start:stop]
        assert np.array_equal(unions(alone_RN[on_path_N].astype(int), 8), alone_RN[on_path_N].astype(int) & 1)
    off_RN = wanted_RN[~on_path_R]
    assert np.array_equal(together_RN[~on_path_R], 2 * np.rint(off_RN / 2))


@pytest.fixture
def layers():
    generator = torch.Generator().manual_seed(5)
    weights = [torch.randn(160, 48, generator=generator) for _ in range(2)]
    mixed = [torch.randn(48, 48, generator=generator) + 2 for _ in range(2)]
    hessians = [mix_CC @ mix_CC.T / 48 for mix_CC in mixed]
    return weights, hessians


def half_steps(rows):
    return torch.full((rows,), 0.25) * 2 ** torch.linspace(0, 1, rows)


def test_gptq_along_paths_leaves_a_fifth_less_than_gptq_at_whole_steps(layers):
    """Codes of a path cost the bits of whole steps; asymptotically they leave 0.79 of the error."""
    weights, hessians = layers
    factors = [factorise(hessian_CC, 0.01) for hessian_CC in hessians]
    half_R = half_steps(160)
    search = PathSearch([160, 160], np.ones(320, bool), 8)
    paths = solve_stack(weights, factors, [half_R] * 2, None, 32, search)
    scalars = solve_stack(weights, factors, [2 * half_R] * 2, None, 32)
    for weight_RC, hessian_CC, path_RC, scalar_RC in zip(weights, hessians, paths, scalars, strict=True):
        code_RC = path_RC.numpy()
        assert np.array_equal(unions(code_RC, 8), code_RC & 1)
        ratio = proxy_loss(weight_RC, path_RC, half_R, hessian_CC) / proxy_loss(
            weight_RC, scalar_RC, 2 * half_R, hessian_CC
        )
        assert 0.7 < ratio < 0.9
        nearest_RC = round_to_nearest(weight_RC, half_R, None, PathSearch([160], np.ones(160, bool), 8))
        assert np.array_equal(unions(nearest_RC.numpy(), 8), nearest_RC.numpy() & 1)
        # Feedback matters along paths as it does without them.
        assert proxy_loss(weight_RC, path_RC, half_R, hessian_CC) < 0.7 * proxy_loss(
            weight_RC, nearest_RC, half_R, hessian_CC
        )


def test_a_stack_along_paths_is_its_matrices_alone(layers):
    weights, hessians = layers
    factors = [factorise(hessian_CC, 0.01) for hessian_CC in hessians]
    half_R, on_path_R = half_steps(160), np.arange(320) % 3 > 0
    stacked = solve_stack(weights, factors, [half_R] * 2, None, 16, PathSearch([100, 60] * 2, on_path_R, 16))
    for number, (weight_RC, factor) in enumerate(zip(weights, factors, strict=True)):
        search = PathSearch([100, 60], on_path_R[160 * number :][:160], 16)
        assert torch.equal(solve_stack([weight_RC], [factor], [half_R], None, 48, search)[0], stacked[number])
