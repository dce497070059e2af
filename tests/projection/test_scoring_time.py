"""The challenge's documents, and what the parts of an item's seconds follow."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.config import load_params
from pipeline.projection.machines import MACHINES
from pipeline.projection.scoring_time import (
    VAL_TARGETS,
    challenge_documents,
    mixture_seconds,
    scoring_parts,
    scoring_seconds,
    val_targets,
)
from pipeline.quant.config import MixtureConfig
from pipeline.scoring.protocols import parse_protocol
from tests.networks import TINY

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MACHINE = MACHINES["8xh100"]


def test_documents_of_the_challenge_add_up_and_are_the_same_in_every_run() -> None:
    documents = challenge_documents(VAL_TARGETS[8192])
    assert sum(documents) == VAL_TARGETS[8192]
    assert min(documents) >= 0
    assert documents == challenge_documents(VAL_TARGETS[8192])


def test_targets_follow_the_tokenizer() -> None:
    plain = load_params(RECIPES / "frontier.yaml", ["data"]).data
    assert val_targets(plain) == 40_540_802
    assert val_targets(load_params(RECIPES / "fairway-16mb.yaml", ["data"]).data) == 47_853_344
    assert val_targets(replace(plain, source="text", files=("a.txt",), fineweb=None, vocab_size=512)) is None


def test_fewer_devices_take_longer_and_parts_add_up() -> None:
    protocol = parse_protocol({"kind": "blocks", "context_tokens": 32, "mixture": None})
    parts = scoring_parts(TINY, protocol, 128, MACHINE, 60_000)
    assert sum(parts.values()) == scoring_seconds(TINY, protocol, 128, MACHINE, 60_000) == parts["windows"]
    alone = scoring_seconds(TINY, protocol, 128, MACHINES["h100"], 60_000)
    assert alone == pytest.approx(8 * parts["windows"], rel=0.02)  # the last batches


def test_counts_take_a_time_for_every_target_and_length() -> None:
    mixture = MixtureConfig(tokens=100, document_orders=(1, 2), stream_orders=(1, 2, 3))
    none, document, stream = (
        parse_protocol({"kind": "blocks", "context_tokens": 32, "mixture": name})
        for name in (None, "document", "stream")
    )
    machine = replace(MACHINE, count_seconds=0.5)
    assert mixture_seconds(none, mixture, machine, 10) == 0
    assert mixture_seconds(document, None, machine, 10) == 0
    assert mixture_seconds(document, mixture, machine, 10) == 10
    assert mixture_seconds(stream, mixture, machine, 10) == 25
