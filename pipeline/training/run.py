"""One training run from shards to weights, as the train stage and the record program both call it.

Checked by: tests/stages/test_pipeline.py, for the stage and for the record program.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pipeline.base.progress import ClockedProgress, Log
from pipeline.base.ranks import Ranks
from pipeline.data.batches import SequenceSampler
from pipeline.launching.processes import process_group
from pipeline.model.backends import attention_kernel, resolve_attention
from pipeline.model.config import ModelConfig
from pipeline.model.network import LoopedUNet, build
from pipeline.model.parts.position_bigram import PositionBigram
from pipeline.training.config import TrainConfig
from pipeline.training.contexts import sampled_tokens
from pipeline.training.journal import TrainResult
from pipeline.training.loop import train
from pipeline.training.precision import BF16, resolve_precision
from pipeline.training.snapshot import Snapshots


def train_from_shards(
    model_config: ModelConfig,
    train_config: TrainConfig,
    shards: Sequence[np.ndarray],
    seed: int,
    ranks: Ranks,
    device: torch.device,
    log: Log,
    progress: ClockedProgress,
    attention: str,
    leading_space_V: "np.ndarray | None",
    snapshots: "Snapshots | None" = None,
) -> tuple[LoopedUNet, TrainResult]:
    """Build a model, train it on opened train shards and return it with what the run did.

    Joins the ranks into a process group for the run; every rank returns the same weights. With `snapshots` it starts
    from the latest one. `attention` names a kernel or is `auto`, and so may the precision; the log says which it is.
    `leading_space_V` is the tokenizer's, bool per piece, for a bigram hash by position; nothing else reads it.
    Raises ValueError for shards that are too short or a kernel that is absent.
    """
    sampler = SequenceSampler(
        shards,
        model_config.context_tokens
        if train_config.context_stages is None
        else sampled_tokens(train_config.context_stages),
        seed,
        train_config.document_bos_id,
    )
    settings = replace(train_config, precision=resolve_precision(train_config.precision, device))
    kernel = resolve_attention(attention, device, settings.precision == BF16)
    if ranks.rank == 0:
        log(f"train_shards: {len(shards)}")
        log(f"precision: {settings.precision}")
        log(f"attention: {kernel}")
    model = build(model_config, seed).to(device)
    if isinstance(model.bigram, PositionBigram):
        model.bigram.learn_spaces(torch.from_numpy(leading_space_V))
    with process_group(ranks, device), attention_kernel(kernel):
        result = train(model, settings, sampler, ranks, device, log, progress, snapshots=snapshots)
    return model, result
