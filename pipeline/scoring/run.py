"""One evaluation from tokens to ledger, as the evaluate stage and the record program both call it.

Checked by: tests/scoring/test_run.py, tests/stages/test_pipeline.py.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from pipeline.base.checks import require_always
from pipeline.base.progress import Progress
from pipeline.base.ranks import ALONE, Ranks
from pipeline.data.byte_count import ByteTable, count_bytes
from pipeline.mixture.mixing import Mixture
from pipeline.scoring.config import Protocol
from pipeline.scoring.evaluate import score
from pipeline.scoring.ledger import Ledger, make_ledger


def score_item(
    model: nn.Module,
    tokens_M: np.ndarray,
    table: ByteTable,
    protocol: Protocol,
    device: torch.device,
    batch_tokens: int,
    progress: Progress,
    ranks: Ranks = ALONE,
    mixtures: Mapping[str, Mixture] | None = None,
) -> Ledger:
    """Return the ledger of `tokens_M` under `protocol`, the same on all ranks: bf16 autocast on GPUs that have it, else
    fp32. `mixtures`: those of the artifact.

    ValueError before anything is scored when the table is another tokenizer's or the targets stand for no bytes.
    """
    vocab_size, pieces = getattr(getattr(model, "config", None), "vocab_size", len(table.base_V)), len(table.base_V)
    if vocab_size != pieces:
        raise ValueError(
            f"model.vocab_size: got {vocab_size}, expected the tokenizer's {pieces} pieces; score with the tokenizer "
            "the model was trained on, or train again"
        )
    bytes_N = count_bytes(tokens_M, table)
    require_always(bytes_N.sum() > 0, "validation text", int(bytes_N.sum()), "targets that stand for at least one byte")
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if half else torch.float32
    scores = score(
        model,
        tokens_M,
        protocol,
        device=device,
        dtype=dtype,
        batch_tokens=batch_tokens,
        progress=progress,
        ranks=ranks,
        mixtures=mixtures,
        bytes_N=bytes_N,
    )
    return make_ledger(scores, bytes_N, protocol)
