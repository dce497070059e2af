"""The value embedding: a token table added to the values of some attentions, each reader with a scale of its own.

Axes: B batch, T position.
Source: the crawler programs of Parameter Golf (pull requests 1535, 1579).
Differs: nothing.
Checked by: tests/model/test_network.py, tests/interop/test_interop.py
"""

import torch
from torch import Tensor, nn

from pipeline.model.config import ModelConfig
from pipeline.model.embedding import lookup_table, projection_between
from pipeline.model.parts.config import ValueEmbeddingConfig
from pipeline.model.schedule import Schedule
from pipeline.model.schedule_config import HelixSchedule


class ValueEmbedding(nn.Module):
    """One addend per reader, from one table."""

    INITIAL_SCALE = 0.1
    INITIAL_STD = 0.01

    def __init__(self, config: ValueEmbeddingConfig, vocab_size: int, kv_dim: int) -> None:
        super().__init__()
        self.table = lookup_table(vocab_size, config.dim)
        self.projection = projection_between(config.dim, kv_dim)
        self.scale = nn.Parameter(torch.tensor(self.INITIAL_SCALE)) if config.shared_scale else None
        self.reader_scales = nn.ParameterList(torch.ones(1) for _ in config.readers)

    def forward(self, input_ids_BT: Tensor) -> list[Tensor]:
        """Return one (B, T, kv_dim) addend per reader."""
        value = self.projection(self.table(input_ids_BT))
        if self.scale is not None:
            value = self.scale * value
        return [reader_scale * value for reader_scale in self.reader_scales]


def readers_by_slot(config: ModelConfig, schedule: Schedule) -> dict[int, int]:
    """Return which reader's addend the visit in each slot takes; slots without one are absent."""
    value = config.value_embedding
    if value is None:
        return {}
    if value.read_by == "visits":
        return {slot: reader for reader, slot in enumerate(value.readers)}
    single = isinstance(config.schedule, HelixSchedule)  # all looped blocks take the first one's
    looped = {
        visit.slot: 0 if single else visit.block - config.schedule.unique_blocks
        for visit in schedule.visits
        if visit.phase == "core"
    }
    return {slot: value.readers.index(block) for slot, block in looped.items() if block in value.readers}
