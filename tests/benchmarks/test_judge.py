"""Losses and divergences of whole streams, against the project's own scoring and the definition."""

import numpy as np
import pytest
import torch

from benchmarks.quantization.judge import Judge
from pipeline.base.progress import silent
from pipeline.scoring.config import BlocksProtocol
from pipeline.scoring.evaluate import score
from tests.benchmarks.tiny_stream import tiny_stream
from tests.networks import TINY, changed, roused

VOCABULARY, CONTEXT = 64, 24
MODEL = changed(TINY, {"vocab_size": VOCABULARY, "context_tokens": CONTEXT, "embed_init_std": 0.05})


@pytest.mark.parametrize("targets", [1000, 264, 30, 5])
def test_losses_are_those_of_protocol_blocks(targets):
    model, other = roused(MODEL, 3).eval(), roused(MODEL, 4).eval()
    whole = tiny_stream(VOCABULARY, CONTEXT)
    stream = whole._replace(
        tokens_M=whole.tokens_M[: targets + 1], bytes_N=whole.bytes_N[:targets], document_N=whole.document_N[:targets]
    )
    judge = Judge(model, stream)
    for net, nats_D in ((model, judge.float_D), (other, judge(other).nats_D)):
        protocol = BlocksProtocol(kind="blocks", context_tokens=CONTEXT, mixture=None)
        scores = score(
            net, stream.tokens_M, protocol, device="cpu", dtype=torch.float32, batch_tokens=4 * CONTEXT, progress=silent
        )
        assert nats_D == pytest.approx(np.bincount(stream.document_N, scores.nats), rel=1e-5)
    assert len(stream.bytes_N) == min(targets, 268)


def test_divergence_is_that_of_whole_distributions():
    model, other = roused(MODEL, 3).eval(), roused(MODEL, 4).eval()
    stream = tiny_stream(VOCABULARY, CONTEXT)
    judge = Judge(model, stream)
    assert np.abs(judge(model).divergence_D).max() < 1e-4
    wanted_D = np.zeros(len(judge.float_D))
    for start in range(0, len(stream.bytes_N), CONTEXT):
        ids = torch.from_numpy(stream.tokens_M[start : start + CONTEXT].astype(np.int64))[None]
        ids = ids[:, : len(stream.bytes_N) - start]
        with torch.no_grad():
            logs = [net(ids)[0].double().log_softmax(-1) for net in (model, other)]
        divergence_T = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).numpy()
        np.add.at(wanted_D, stream.document_N[start : start + CONTEXT], divergence_T)
    assert judge(other).divergence_D == pytest.approx(wanted_D, rel=1e-4)
    assert (wanted_D > 0).all()
