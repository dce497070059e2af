"""Attention within documents: a sequence that packs several keeps them apart.

The one idea: a document begins where its first token stands, so who sees whom follows from the ids alone, and causally.
What attention asks for its past is asked of a view of these ids, which hands itself on with keys and values; nothing
else in the network knows of documents. Rotary positions stay the sequence's: rotations are relative.

Where a flash kernel runs, documents are the sequences of its variable-length form, which multiplies nothing in vain;
everywhere else they are blocks of a mask. A compiler wants a table of fixed length: in training it has
`rows_for` its batches, and rows too many are documents without a token; in scoring it has none and takes the mask.

Axes: B batch, T position of the queries, S position of the keys, N = B * S, K rows of the table of documents,
H query heads, G key/value heads, E head width.
Source: Parameter Golf pull request 1530; variable-length kernels, FlashAttention arXiv 2205.14135.
Differs: the table grows with the documents of a batch, of any corpus: none is cut, none is merged with another.
Checked by: tests/model/test_documents.py
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.model.config import ModelConfig
from pipeline.model.stream_cache import StreamCache

EXPECTED_DOCUMENT_TOKENS = 256
"""Room for documents as short as this on average is there before a batch asks for it."""


class DocumentView:
    """What the positions of a batch see: their own document, so far. It stands where a cache of the past does."""

    def __init__(self, bos_id: int, rows: int, ids_BT: Tensor, past: StreamCache | None) -> None:
        """`rows`: of a compiled table of documents. `past`: what came before these positions, seen too."""
        self.rows, self.past, self.num_queries = rows, past, ids_BT.size(1)
        starts_BT = ids_BT == bos_id
        if past is not None:
            starts_BT = past.extend(starts_BT[..., None, None], starts_BT[..., None, None])[0][..., 0, 0]
        self.starts_BS = starts_BT
        self._mask: Tensor | None = None
        self._ends: Tensor | None = None

    def extend(self, k_BTGE: Tensor, v_BTGE: Tensor) -> tuple[Tensor, Tensor, "DocumentView"]:
        """Return the keys and values of a piece and of the past before it, and who sees them."""
        k_BSGE, v_BSGE = (k_BTGE, v_BTGE) if self.past is None else self.past.extend(k_BTGE, v_BTGE)
        return k_BSGE, v_BSGE, self

    def takes_table(self) -> bool:
        """Return whether a flash kernel was chosen. A compiler, which cannot ask, has rows then and else none."""
        return self.rows > 0 if torch.compiler.is_compiling() else is_flash_forced()

    def mask(self) -> Tensor:
        """Return whether a query sees a key, bool (B, 1, T, S)."""
        if self._mask is None:
            number_BS = self.starts_BS.cumsum(1)
            same_BTS = number_BS[:, -self.num_queries :, None] == number_BS[:, None]
            past = self.starts_BS.size(1) - self.num_queries
            self._mask = (same_BTS & torch.ones_like(same_BTS[0]).tril(past)).unsqueeze(1)
        return self._mask

    def ends(self) -> Tensor:
        """Return where documents begin in all sequences end to end, and N after the last, int32 (K + 1,)."""
        if self._ends is None:
            starts_N = F.pad(self.starts_BS[:, 1:], (1, 0), value=True).flatten()  # wherever a sequence does, too
            num_tokens, rows = len(starts_N), self.rows if torch.compiler.is_compiling() else int(starts_N.sum())
            position_N = torch.arange(num_tokens, dtype=torch.int32, device=starts_N.device)
            row_N = torch.where(starts_N, starts_N.cumsum(0) - 1, rows)
            end_N = torch.where(starts_N, position_N, num_tokens)
            self._ends = end_N.new_full((rows + 1,), num_tokens).scatter(0, row_N, end_N)
        return self._ends


def seen_by(
    config: ModelConfig, rows: int, ids_BT: Tensor, cache: StreamCache | None
) -> StreamCache | DocumentView | None:
    """Return what attention asks for the past of a batch: `cache`, or the view within documents."""
    if config.attention.document_bos_id is None:
        return cache
    return DocumentView(config.attention.document_bos_id, rows, ids_BT, cache)


def rows_for(config: ModelConfig, rows: int, ids_BT: Tensor) -> int:
    """Return the rows of a compiled table that hold the documents of a batch too, ids on the CPU.

    It never shrinks and grows by doubling: each length is a graph.
    """
    if config.attention.document_bos_id is None:
        return rows
    num_starts = len(ids_BT) + int((ids_BT == config.attention.document_bos_id).sum())
    expected = 2 * len(ids_BT) + ids_BT.numel() // EXPECTED_DOCUMENT_TOKENS
    return max(rows, 1 << (max(num_starts, expected) - 1).bit_length())


def attend_within(q_BTHE: Tensor, k_BSGE: Tensor, v_BSGE: Tensor, view: DocumentView) -> Tensor:
    """Return causal attention within documents in the shape of `q_BTHE`; queries are the keys' last positions."""
    fits = q_BTHE.dtype == torch.bfloat16 and q_BTHE.size(-1) in range(8, 257, 8)
    if view.takes_table() and q_BTHE.is_cuda and fits and q_BTHE.size(1) == k_BSGE.size(1):
        return attend_by_table(q_BTHE, k_BSGE, v_BSGE, view.ends())
    return attend_by_mask(q_BTHE, k_BSGE, v_BSGE, view.mask()[:, :, -q_BTHE.size(1) :])


def is_flash_forced() -> bool:
    """Return whether `attention_kernel` has chosen a flash kernel, which forbids all others."""
    return not torch.backends.cuda.math_sdp_enabled()


def attend_by_table(q_BTHE: Tensor, k_BTGE: Tensor, v_BTGE: Tensor, ends_K: Tensor) -> Tensor:
    """Return it from the flash kernel that is there, the documents one after the other in its variable-length form."""
    tokens = q_BTHE.size(1)
    q_NHE, k_NGE, v_NGE = (x.flatten(0, 1) for x in (q_BTHE, k_BTGE, v_BTGE))
    kernel = torch.ops.aten._flash_attention_forward
    y_NHE = kernel(q_NHE, k_NGE, v_NGE, ends_K, ends_K, tokens, tokens, 0.0, True, return_debug_mask=False)[0]
    return y_NHE.view(q_BTHE.shape)


def attend_by_mask(q_BTHE: Tensor, k_BSGE: Tensor, v_BSGE: Tensor, mask_B1TS: Tensor) -> Tensor:
    """Return it from a kernel that takes a mask: no flash kernel does, though it be the one chosen."""
    q_BHTE, k_BGSE, v_BGSE = (x.transpose(1, 2) for x in (q_BTHE, k_BSGE, v_BSGE))
    masked: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if q_BHTE.device.type == "cuda":  # nor does a fused kernel there take grouped heads besides
        repeats = q_BHTE.size(1) // k_BGSE.size(1)
        k_BGSE, v_BGSE = (x.repeat_interleave(repeats, dim=1) for x in (k_BGSE, v_BGSE))
        masked = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    with masked:
        y_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BGSE, v_BGSE, attn_mask=mask_B1TS, enable_gqa=True)
    return y_BHTE.transpose(1, 2)
