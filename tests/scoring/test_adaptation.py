"""Score-first chunk TTT: the published program's nats, an independent oracle, and what may train."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.scoring import score_tokens
from pipeline.scoring.adaptation import NoAdaptation, chunk_learning_rate, freeze_first_blocks, reproducible_gradients
from pipeline.scoring.windows import Group
from tests.oracle_pervisit import PervisitOracle
from tests.scoring.scoring_toys import TTT, in_context, random_tokens, tiny_network


def published(path: Path) -> tuple[PervisitOracle, dict[str, torch.Tensor], dict[str, str]]:
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    model = PervisitOracle(json.loads(metadata["config"]))
    prefix = "param."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return model, tensors, metadata


def test_the_oracle_network_is_the_published_one(shared: Path) -> None:
    model, tensors, _ = published(shared / "fixtures" / "crawler_3f2c_x2_pervisit.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(model(tensors["input_ids"]), tensors["logits"], rtol=0, atol=1e-4)


def test_published_ttt_nats_are_reproduced(shared: Path) -> None:
    model, tensors, metadata = published(shared / "fixtures" / "ttt_crawler_3f2c_x2.safetensors")
    rule = json.loads(metadata["ttt"])
    nats = score_tokens(
        model,
        tensors["val_tokens"],
        {
            "kind": "ttt",
            "context_tokens": rule["seq_len"],
            "stride_tokens": rule["stride"],
            "chunk_tokens": rule["chunk_tokens"],
            "epochs": rule["epochs"],
            "learning_rate": rule["lr"],
            "momentum": rule["momentum"],
            "grad_clip": rule["grad_clip"],
            "batch_sequences": rule["batch_seqs"],
            "freeze_blocks": rule["freeze_blocks"],
            "lane_tokens": None,
            "mixture": None,
        },
    )
    # Published tolerance 1e-3; measured 2e-6, so a tighter one is what would notice a change of rule.
    np.testing.assert_allclose(nats, tensors["token_nll"].numpy(), rtol=0, atol=1e-4)
    first_chunk = slice(0, rule["chunk_tokens"])
    np.testing.assert_allclose(nats[first_chunk], tensors["token_nll_no_ttt"].numpy()[first_chunk], rtol=0, atol=1e-4)
    assert nats.mean() == pytest.approx(float(metadata["ttt_val_loss"]), abs=1e-5)


def slow_ttt(model, tokens: torch.Tensor, rule: dict) -> np.ndarray:
    """The rule word by word: hand-written SGD, one window and one sequence at a time."""
    length, stride, chunk = rule["context_tokens"], rule["stride_tokens"], rule["chunk_tokens"]
    num_targets, nats = len(tokens) - 1, np.full(len(tokens) - 1, np.nan)
    model = in_context(model, length)
    frozen = {"blocks.0.", f"blocks.{model.config.schedule.unique_blocks}."}
    named = {n: p for n, p in model.named_parameters() if not any(n.startswith(prefix) for prefix in frozen)}
    velocity: dict[str, torch.Tensor] = {}
    num_chunks = math.ceil(num_targets / chunk)
    windows = [(0, 0)]
    while windows[-1][0] + stride + length - stride < num_targets:
        windows.append((windows[-1][0] + stride, windows[-1][0] + length))
    for k in range(num_chunks):
        for start, first in windows:
            if first // chunk == k:
                stop = min(start + length, num_targets)
                with torch.no_grad():
                    losses = -F.log_softmax(model(tokens[None, start:stop])[0], -1)
                nats[first:stop] = losses.gather(1, tokens[start + 1 : stop + 1, None])[first - start :, 0].numpy()
        if k == num_chunks - 1:
            break
        rate = rule["learning_rate"] * (1 + math.cos(math.pi * k / (num_chunks - 1))) / 2
        begin, count = k * chunk, (min((k + 1) * chunk, num_targets) - k * chunk) // length
        for _ in range(rule["epochs"]):
            for first in range(0, count, rule["batch_sequences"]):
                starts = [begin + i * length for i in range(first, min(first + rule["batch_sequences"], count))]
                loss = sum(
                    F.cross_entropy(model(tokens[None, s : s + length])[0], tokens[s + 1 : s + length + 1])
                    for s in starts
                ) / len(starts)
                found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
                grads = {n: g for n, g in zip(named, found, strict=True) if g is not None}
                norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads.values()))
                for n, g in grads.items():
                    g = g * min(1.0, rule["grad_clip"] / norm)
                    velocity[n] = g if n not in velocity else rule["momentum"] * velocity[n] + g
                    with torch.no_grad():
                        named[n] -= rate * velocity[n]
    return nats


@pytest.mark.parametrize("changes", [{}, {"chunk_tokens": 49, "stride_tokens": 16}, {"chunk_tokens": 21, "epochs": 1}])
def test_ttt_equals_the_slow_rule(changes: dict) -> None:
    rule, tokens = {**TTT, **changes}, random_tokens(150)
    expected = slow_ttt(tiny_network(), tokens, rule)
    # rounding of other batch shapes, amplified by the steps that train on it
    np.testing.assert_allclose(score_tokens(tiny_network(), tokens, rule), expected, rtol=0, atol=2e-4)


def test_ttt_learns_what_repeats_and_never_the_first_chunk() -> None:
    tokens = random_tokens(40).repeat(5)
    adapted = score_tokens(tiny_network(), tokens, TTT)
    still = score_tokens(tiny_network(), tokens, {**TTT, "epochs": 0})
    np.testing.assert_array_equal(adapted[:40], still[:40])
    assert adapted[120:].mean() < still[120:].mean() - 0.5


def test_frozen_are_exactly_the_first_blocks_of_each_kind() -> None:
    model = tiny_network()
    trainable = {id(p) for p in freeze_first_blocks(model, 1)}
    unique = model.config.schedule.unique_blocks
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("blocks.0.", f"blocks.{unique}."))
        assert (id(parameter) in trainable) == (not frozen), name
    assert len(freeze_first_blocks(model, 0)) == len(list(model.parameters()))


def test_a_model_without_blocks_adapts_only_unfrozen() -> None:
    plain = torch.nn.Sequential(torch.nn.Embedding(64, 8), torch.nn.Linear(8, 64))
    assert score_tokens(plain, random_tokens(100), {**TTT, "freeze_blocks": 0}).shape == (99,)
    with pytest.raises(ValueError, match="freeze_blocks"):
        score_tokens(plain, random_tokens(100), TTT)


@pytest.mark.parametrize(("device", "deterministic"), [("cuda", True), ("cpu", False)])
def test_only_cuda_asks_for_deterministic_gradients_and_gives_the_choice_back(device: str, deterministic: bool) -> None:
    with reproducible_gradients(torch.device(device)):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # flash attention would only warn
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_rate_falls_from_peak_to_zero() -> None:
    assert [round(chunk_learning_rate(2.0, k, 3), 12) for k in range(3)] == [2.0, 1.0, 0.0]
    assert chunk_learning_rate(2.0, 0, 1) == 2.0


def test_an_adaptation_sees_a_chunk_only_after_it_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int, int]] = []

    class Recorder(NoAdaptation):
        def before(self, groups: Sequence[Group]) -> None:
            events.extend(("before", group.start, -1) for group in groups)

        def after(self, groups: Sequence[Group], revealed: Sequence[torch.Tensor]) -> None:
            for group, revealed_M in zip(groups, revealed, strict=True):
                assert torch.equal(revealed_M, tokens[group.start : group.stop + 1])
                events.append(("after", group.start, group.stop))

    from pipeline.scoring import evaluate

    tokens = random_tokens(100)
    monkeypatch.setattr(evaluate, "adaptation_for", lambda *_: Recorder())
    score_tokens(tiny_network(), tokens, TTT)
    expected = [[("before", at, -1), ("after", at, min(at + 40, 99))] for at in (0, 40, 80)]
    assert events == [event for pair in expected for event in pair]
