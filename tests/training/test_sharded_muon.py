"""Muon on two and three ranks against Muon on one: odd numbers of matrices, missing gradients, snapshots."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.base.ranks import Ranks
from pipeline.launching.processes import torchrun
from tests.training.sharded_run import NUM_STEPS, RATES, Uneven, optimizer_step_of, resume, take_steps

ALONE = Ranks(0, 0, 1)


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def ranked(
    request: pytest.FixtureRequest, repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Return what each rank saw."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repo)
        torchrun("tests.training.sharded_run", [str(folder)], num_processes=request.param)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(request.param)]


def alone(num_ranks: int, grad_clip: float, **changes: Any) -> dict[str, Any]:
    """Return what one process sees that is given the mean gradients of the ranks."""
    model = Uneven()
    step = optimizer_step_of(model, ALONE, grad_clip, **changes)
    return take_steps(model, step, range(NUM_STEPS), list(range(num_ranks)))


def distance_over_moved(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the largest distance of a parameter to the expected one, over the distance that one moved."""
    start = Uneven().state_dict()
    return max(
        float((weights[name] - end).norm() / (end - start[name]).norm().clamp(min=1e-9))
        for name, end in expected.items()
    )


def test_ranks_hold_identical_weights(ranked: list[dict[str, Any]]) -> None:
    for part in ("first", "second", "clipped", "rated"):
        for other in ranked[1:]:
            for name, weight in ranked[0][part]["weights"].items():
                assert torch.equal(weight, other[part]["weights"][name]), f"{part}: {name} drifted apart"
            assert other[part]["norms"] == ranked[0][part]["norms"]


def test_sharded_equals_unsharded(ranked: list[dict[str, Any]]) -> None:
    """Sums over ranks are exact here, so all is the same but the sizes of the stacks that a rank orthogonalises.

    The measured distance is zero; another processor may round stacks of other sizes otherwise, as test_muon allows.
    """
    expected = alone(len(ranked), grad_clip=0.0)
    assert distance_over_moved(ranked[0]["second"]["weights"], expected["weights"]) < 0.03
    assert ranked[0]["first"]["losses"] + ranked[0]["second"]["losses"] == pytest.approx(expected["losses"])


def test_the_norm_is_the_whole_gradients_and_clips_it(ranked: list[dict[str, Any]]) -> None:
    """The squares are summed in another order: the last bit may differ, and a bf16 rounding with it.

    A flipped rounding, amplified by five iterations, is a few thousandths of an update (measured 0.004).
    """
    expected = alone(len(ranked), grad_clip=0.3)
    assert ranked[0]["clipped"]["norms"] == pytest.approx(expected["norms"], rel=1e-6)
    assert distance_over_moved(ranked[0]["clipped"]["weights"], expected["weights"]) < 0.03


def test_rates_per_block_are_those_of_one_process(ranked: list[dict[str, Any]]) -> None:
    """Matrices of one shape then lie in stacks of several rates; tolerance as above, far below what a rate changes."""
    expected = alone(len(ranked), grad_clip=0.0, matrix_lr=RATES)
    assert distance_over_moved(ranked[0]["rated"]["weights"], expected["weights"]) < 0.03
    plain = alone(len(ranked), grad_clip=0.0)
    assert distance_over_moved(plain["weights"], expected["weights"]) > 0.3


def test_matrices_without_a_gradient_stay(ranked: list[dict[str, Any]]) -> None:
    """Neither decayed nor given momentum, in a stack of its own and among others that have gradients."""
    start, first = Uneven().state_dict(), ranked[0]["first"]["weights"]
    assert torch.equal(ranked[0]["second"]["weights"]["never.weight"], start["never.weight"])
    assert not torch.equal(first["blocks.2.weight"], start["blocks.2.weight"])
    names = [name for name, parameter in Uneven().named_parameters() if parameter.ndim == 2 and "table" not in name]
    for seen in ranked:
        assert names.index("never.weight") not in seen["states"][1]["state"]


def test_each_momentum_lives_on_one_rank(ranked: list[dict[str, Any]]) -> None:
    owned = [set(seen["states"][1]["state"]) for seen in ranked]
    union = set().union(*owned)
    assert len(union) == sum(map(len, owned)) == 8, "all matrices but the one never trained, each once"


def test_a_rank_resumes_bit_for_bit(ranked: list[dict[str, Any]]) -> None:
    for seen in ranked:
        for name, weight in seen["second"]["weights"].items():
            assert torch.equal(seen["resumed"]["weights"][name], weight), name


def test_the_union_of_states_loads_at_any_world_size(ranked: list[dict[str, Any]]) -> None:
    """It goes on alone, tolerance as for sharded against unsharded; and each rank takes what it owns."""
    adamw, muon = ranked[0]["states"]
    union = {place: state for seen in ranked for place, state in seen["states"][1]["state"].items()}
    whole = [adamw, muon | {"state": union}]
    resumed = resume(ranked[0]["first"]["weights"], whole, ALONE, list(range(len(ranked))))
    assert distance_over_moved(resumed["weights"], ranked[0]["second"]["weights"]) < 0.03
    for rank, seen in enumerate(ranked):
        optimizer = optimizer_step_of(Uneven(), Ranks(rank, rank, len(ranked)), 0.0).optimizers[1]
        optimizer.load_state_dict(whole[1])
        assert set(optimizer.state_dict()["state"]) == set(seen["states"][1]["state"])
