"""The compiled backward pass and its warm-up, with a compiler that only records what it is given."""

import torch
from torch._dynamo.testing import CompileCounter

from pipeline.model.network import build
from pipeline.training.backward import build_backward, warm_up
from tests.training.tiny_run import MODEL, pattern_sampler

CPU = torch.device("cpu")


def test_every_number_of_loops_is_compiled_once_and_before_training(monkeypatch):
    """The whole pass is one graph; going back to a number of loops that was warmed up compiles nothing."""
    counter, compile_with = CompileCounter(), torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(
        torch, "compile", lambda function, **options: compile_with(function, backend=counter, **options)
    )
    model, batch_BT = build(MODEL, seed=0), pattern_sampler().batch(0, 4, 0, 1)
    backward = build_backward(model, CPU, bf16=True, compiled=True, micro_batch_sequences=2)
    for active_loops in (1, None):
        model.set_active_loops(active_loops)
        warm_up(model, backward, tuple(batch_BT.shape), lambda loss: None)
    assert counter.frame_count == 2
    for active_loops in (1, None, 1):
        model.set_active_loops(active_loops)
        backward(batch_BT)
    assert counter.frame_count == 2


def test_a_warm_up_reads_random_valid_ids_and_changes_nothing():
    model, batch_BT = build(MODEL, seed=0), pattern_sampler().batch(0, 4, 0, 1)
    before, state, seen = torch.nn.utils.parameters_to_vector(model.parameters()), torch.get_rng_state(), []

    def backward(tokens_BT):
        seen.append(tokens_BT)
        return model(tokens_BT[:, :-1], tokens_BT[:, 1:])

    warm_up(model, backward, tuple(batch_BT.shape), lambda loss: None)
    assert all(tokens.shape == batch_BT.shape and tokens.dtype == batch_BT.dtype for tokens in seen)
    assert seen[0].min() >= 0
    assert seen[0].max() < MODEL.vocab_size
    assert len(seen[0].unique()) > MODEL.vocab_size // 2
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
