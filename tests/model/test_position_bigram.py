"""The bigram hash by position: its two halves, and what the tokenizer says on its way into the artifact."""

import numpy as np
import pytest
import torch

from pipeline.base.progress import silent
from pipeline.base.ranks import ALONE
from pipeline.data.byte_count import byte_table
from pipeline.model.network import build
from pipeline.training.run import train_from_shards
from tests.networks import TINY, changed
from tests.training.tiny_run import train_config

BIGRAM = {"bigram": {"buckets": 20, "dim": 8, "hash": "position", "scaled": True}}


def test_a_pair_inside_a_word_never_shares_a_bucket_with_one_that_begins_a_word():
    bigram = build(changed(TINY, BIGRAM)).bigram
    bigram.learn_spaces(torch.arange(48) < 24)
    ids_BT = torch.randint(48, (3, 50), generator=torch.Generator().manual_seed(0))
    buckets_BT = bigram.bucket_of(ids_BT, 20)
    for ids, buckets in zip(ids_BT.tolist(), buckets_BT.tolist(), strict=True):
        pairs = zip(ids[1:], ids[:-1], strict=True)
        assert buckets == [19, *(((36313 * c) ^ (27191 * p)) % 9 + (0 if c < 24 else 9) for c, p in pairs)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_buckets_do_not_depend_on_the_dtype_of_the_ids(dtype):
    bigram = build(changed(TINY, BIGRAM)).bigram
    ids_BT = torch.tensor([[3, 47, 0, 9]])
    assert torch.equal(bigram.bucket_of(ids_BT.to(dtype), 20), bigram.bucket_of(ids_BT, 20))


def test_training_learns_from_the_tokenizer_which_tokens_have_a_leading_space(toy_processor):
    spaces_V = byte_table(toy_processor).leading_space_V
    config = changed(TINY, {**BIGRAM, "vocab_size": len(spaces_V), "context_tokens": 16})
    shard = np.random.default_rng(0).integers(len(spaces_V), size=2000).astype(np.uint16)
    settings = train_config(max_steps=2, batch_tokens=32, warmup_steps=1)
    model, _ = train_from_shards(
        config, settings, [shard], 0, ALONE, torch.device("cpu"), lambda line: None, silent, "sdpa", spaces_V
    )
    assert 0 < spaces_V.sum() < len(spaces_V)
    assert torch.equal(model.state_dict()["bigram.inside_V"], torch.from_numpy(~spaces_V).float())
