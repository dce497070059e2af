"""Tiny real networks and protocols shared by the scoring tests."""

import copy
from typing import Any

import pytest
import torch

from pipeline.base.progress import silent
from pipeline.model.network import LoopedUNet
from pipeline.scoring.evaluate import Scores, score
from pipeline.scoring.protocols import parse_protocol
from tests.networks import TINY, changed, roused

TTT: dict[str, Any] = {
    "kind": "ttt",
    "context_tokens": 16,
    "stride_tokens": 6,
    "chunk_tokens": 40,
    "epochs": 2,
    "learning_rate": 0.3,
    "momentum": 0.9,
    "grad_clip": 1.0,
    "batch_sequences": 2,
    "freeze_blocks": 1,
    "lane_tokens": None,
    "mixture": None,
}
BLOCKS: dict[str, Any] = {"kind": "blocks", "context_tokens": 16, "mixture": None}
DOCUMENTS: dict[str, Any] = {"kind": "blocks", "documents": True, "bos_id": 1, "context_tokens": 16, "mixture": None}
SLIDING: dict[str, Any] = {"kind": "sliding", "context_tokens": 16, "stride_tokens": 6, "mixture": None}
STREAM: dict[str, Any] = {**SLIDING, "kind": "stream", "lane_tokens": 40}

LORA: dict[str, Any] = {
    "kind": "lora-ttt",
    "documents": True,
    "bos_id": 1,
    "context_tokens": 16,
    "chunk_tokens": 6,
    "batch_documents": 3,
    "rank": 2,
    "learning_rate": 0.02,
    "beta1": 0.5,
    "beta2": 0.9,
    "eps": 1e-4,
    "mixture": None,
}
PHASED: dict[str, Any] = {
    "kind": "phased-ttt",
    "bos_id": 1,
    "context_tokens": 16,
    "chunk_tokens": 6,
    "short_chunks": ((4, 2), (12, 4)),
    "chunks_by": "place",
    "batch_documents": 2,
    "lane_documents": 3,
    "rank": 2,
    "alpha": 3.0,
    "adapt_keys": False,
    "learning_rate": 0.02,
    "beta1": 0.0,
    "beta2": 0.9,
    "eps": 1e-4,
    "weight_decay": 0.5,
    "global_phase": {
        "documents": 4,
        "context_tokens": 10,
        "chunk_tokens": 30,
        "epochs": 1,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "grad_clip": 1.0,
        "batch_sequences": 2,
    },
    "mixture": None,
}
PROTOCOLS = {
    "blocks": BLOCKS,
    "documents": DOCUMENTS,
    "sliding": SLIDING,
    "stream": STREAM,
    "ttt": TTT,
    "ttt in lanes": {**TTT, "lane_tokens": 20},
    "lora-ttt": LORA,
    "phased-ttt": PHASED,
    "documents, counts": {**DOCUMENTS, "mixture": "document"},
    "ttt, counts": {**TTT, "mixture": "stream"},
}
_CONSTANTS = (0.6, 0.9, 1.2, 1.0, 3.0, 2.0, 5.0, 4.0, 7.0, 6.0, 9.0, 8.0, 11.0, 0.5, 0.7, 1.0, 1.5, 2.0)
DOCUMENT_STEPS = tuple((1, order, *_CONSTANTS) for order in (1, 2, 4))
MIXTURES = {"document": DOCUMENT_STEPS, "stream": ((-1, 1, *_CONSTANTS), *DOCUMENT_STEPS)}
EVERY_PROTOCOL = pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)


def tiny_network(vocab_size: int = 64) -> LoopedUNet:
    """Return a looped network whose every tensor is random: a fresh one would not even look at its context."""
    changes = {
        "vocab_size": vocab_size,
        "schedule.unique_blocks": 3,
        "schedule.num_loops": 2,
        "attention.exclusive_blocks": [4],
        "rope.dims": 4,
        "rope.base_tokens": 24,
        "rope.loop_scales": [9.0, 1.0],
        "looped_mlp.mult": 2.0,
        "looped_mlp.slope": 0.5,
        "bigram.buckets": 32,
        "value_embedding.readers": [0],
        "embed_init_std": 0.005,
    }
    return roused(changed(TINY, changes), 7, noise=0.3)


def run(model: Any, tokens: Any, protocol: Any, batch_tokens: int = 64, **other: Any) -> Scores:
    """Return the scores of a stream in float32 on the processor, or as `other` arguments of `score` have it."""
    defaults: dict[str, Any] = {"device": "cpu", "dtype": torch.float32, "progress": silent, "mixtures": MIXTURES}
    return score(model, tokens, parse_protocol(protocol), batch_tokens=batch_tokens, **{**defaults, **other})


def in_context(model: LoopedUNet, context_tokens: int) -> LoopedUNet:
    """Return a copy of the network whose rotary base follows another context."""
    changed = copy.deepcopy(model)
    changed.set_context(context_tokens)
    return changed


def random_tokens(num_tokens: int, vocab_size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab_size, (num_tokens,), generator=torch.Generator().manual_seed(seed))


def random_documents(lengths: list[int], vocab_size: int = 64, seed: int = 0) -> torch.Tensor:
    """Return a stream of documents of so many tokens after their BOS, which is token 1 and nowhere else."""
    words = [2 + random_tokens(length, vocab_size - 2, seed + number) for number, length in enumerate(lengths)]
    return torch.cat([torch.cat([torch.tensor([1]), each]) for each in words])
