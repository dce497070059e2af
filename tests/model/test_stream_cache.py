"""A network that reads piece by piece: equal to one forward pass, and blind to what left its window."""

import pytest
import torch

from pipeline.model.rotary import RotaryTable
from pipeline.model.stream_cache import StreamCache
from tests.networks import ARCHITECTURES, TINY, architecture, changed, random_ids, randomised

PIECES = [(0, 5), (5, 6), (6, 7), (7, 16), (16, 40)]


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_pieces_of_a_stream_equal_one_pass(name):
    config = architecture(name)
    model, ids_BT = randomised(config).double(), random_ids(config, 2, 40)
    # Angles like everything else: in float32 the cache and one pass would differ in their last bits.
    model.rotary.inv_freq_PK = model.rotary.inv_freq_PK.double()
    cache = StreamCache(40)
    pieces = [model.hidden(ids_BT[:, start:stop], None, cache) for start, stop in PIECES]
    # Other shapes, other summation order in the matrix products: rounding of float64, in final states of size one.
    assert (torch.cat(pieces, dim=1) - model.hidden(ids_BT)).abs().max() < 1e-11


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_scored_positions_of_a_piece_leave_the_cache_as_it_is(name):
    config = architecture(name)
    model, ids_BT = randomised(config).double(), random_ids(config, 2, 40)
    caches, last = [StreamCache(12), StreamCache(12)], None
    for start, stop in PIECES:
        whole_BTD = model.hidden(ids_BT[:, start:stop], None, caches[0])
        last = model.hidden(ids_BT[:, start:stop], 1, caches[1])
        assert (whole_BTD[:, -1:] - last).abs().max() < 1e-11


@torch.no_grad()
def test_a_position_sees_as_far_back_as_its_window_times_its_depth():
    config = architecture("unique only")
    model, ids_BT = randomised(config).double(), random_ids(config, 1, 60)
    depth, keep, step = model.schedule.effective_depth, 6, 2

    def last_piece(ids_BT):
        cache = StreamCache(keep)
        return [model.hidden(piece, None, cache) for piece in ids_BT.split(step, dim=1)][-1]

    reach = depth * keep + step + 2  # the embedding looks back at two more tokens
    for distance, seen in ((keep + step, True), (reach, False)):
        other_BT = ids_BT.clone()
        other_BT[:, 60 - step - distance] = (other_BT[:, 60 - step - distance] + 1) % config.vocab_size
        assert torch.equal(last_piece(other_BT), last_piece(ids_BT)) != seen


@torch.no_grad()
def test_far_into_a_stream_rotations_are_as_exact_as_at_its_start():
    rotary = RotaryTable(TINY.rope, 8, 32)
    far = 62_000_000
    (near, *_), (late, *_) = rotary(8), rotary(8, far)
    # Rotating back by the first of them leaves the rotation between neighbours.
    cos_TK = late.cos_TK * late.cos_TK[:1] + late.sin_TK * late.sin_TK[:1]
    sin_TK = late.sin_TK * late.cos_TK[:1] - late.cos_TK * late.sin_TK[:1]
    assert late.cos_TK.dtype == torch.float32
    assert (cos_TK - near.cos_TK).abs().max() < 1e-6
    assert (sin_TK - near.sin_TK).abs().max() < 1e-6


@torch.no_grad()
def test_a_stream_of_any_place_gives_the_same_states():
    """Rotations are relative: the same tokens far into a stream, in float32."""
    config = changed(TINY, {"bigram": None, "smear": None})
    model, ids_BT = randomised(config), random_ids(config, 1, 24)
    hidden = []
    for place in (0, 1 << 25):
        cache = StreamCache(24)
        cache.num_tokens = place
        hidden.append(torch.cat([model.hidden(piece, None, cache) for piece in ids_BT.split(4, dim=1)], dim=1))
    assert (hidden[0] - hidden[1]).abs().max() < 1e-4
