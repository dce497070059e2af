"""One evaluation from tokens to ledger, as the evaluate stage and the record program both call it.

Checked by: tests/stages/test_pipeline.py.
"""

import numpy as np
import torch
from torch import nn

from pipeline.data.byte_count import ByteTable, count_bytes
from pipeline.progress import Progress
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
) -> Ledger:
    """Return the ledger of `tokens_M` under `protocol`: bf16 autocast on CUDA, fp32 on a CPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    scores = score(model, tokens_M, protocol, device=device, dtype=dtype, batch_tokens=batch_tokens, progress=progress)
    return make_ledger(scores, count_bytes(tokens_M, table), protocol)
