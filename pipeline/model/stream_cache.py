"""What a network remembers of a stream that it reads piece by piece: the past of every attention, and of the embedding.

One idea: nothing in the network looks at other positions except attention, which needs the keys and values of the
positions it may still see, and the embedding, which needs a token or two before each. Both are kept here, so that a
piece is computed once, whatever is read of it later. Keys are kept rotated by their place in the stream: rotations are
relative, and angles are made in float64 beyond the first piece, so that a long stream costs them nothing.

Axes: B sequences, T position, G key/value heads, E head width.
Source: key/value caches of autoregressive decoding; a window of them as in Mistral 7B, arXiv 2310.06825.
Differs: pieces of any length; the first positions fall out of the window like all others.
Checked by: tests/model/test_stream_cache.py
"""

import torch
from torch import Tensor

EMBEDDING_PAST_TOKENS = 2
"""Tokens before a position that its embedding reads: the smear mixes in the predecessor, a pair with its own."""


class KeyValueWindow:
    """Keys and values of one attention, in a buffer with room for more: a small piece does not copy them all."""

    def __init__(self, keep_tokens: int, like_BTGE: Tensor) -> None:
        self.keep_tokens, self.end = keep_tokens, 0
        self.buffer = torch.stack((like_BTGE, like_BTGE))[:, :, :0]

    def extend(self, k_BTGE: Tensor, v_BTGE: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values that a piece may see, its own last: views that the next call may alter."""
        first, size = max(0, self.end - self.keep_tokens), k_BTGE.size(1)
        if self.end + size > self.buffer.size(2):
            kept, (batch, _, *heads) = self.buffer[:, :, first : self.end], k_BTGE.shape
            first, self.end = 0, kept.size(2)
            self.buffer = k_BTGE.new_empty(2, batch, self.end + size + self.keep_tokens, *heads)
            self.buffer[:, :, : self.end] = kept
        stop = self.end + size
        self.buffer[0, :, self.end : stop], self.buffer[1, :, self.end : stop] = k_BTGE, v_BTGE
        self.end = stop
        return self.buffer[0, :, first:stop], self.buffer[1, :, first:stop]


class StreamCache:
    """The past of one batch of streams, without gradients: every piece adds to it."""

    def __init__(self, keep_tokens: int) -> None:
        """keep_tokens: positions before a piece that its attentions see."""
        self.keep_tokens = keep_tokens
        self.num_tokens = 0
        self.ids_BT: Tensor | None = None
        self.windows: list[KeyValueWindow] = []
        self.turn = 0

    def begin(self, input_ids_BT: Tensor) -> tuple[int, Tensor]:
        """Return the place of a piece's first token in the stream, and the piece after the tokens it looks back at."""
        start, self.turn = self.num_tokens, 0
        self.num_tokens += input_ids_BT.size(1)
        if self.ids_BT is not None:
            input_ids_BT = torch.cat((self.ids_BT, input_ids_BT), dim=1)
        self.ids_BT = input_ids_BT[:, -EMBEDDING_PAST_TOKENS:]
        return start, input_ids_BT

    def extend(self, k_BTGE: Tensor, v_BTGE: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a piece may see in the next attention; attentions take turns, the same in every piece."""
        if self.turn == len(self.windows):
            self.windows.append(KeyValueWindow(self.keep_tokens, k_BTGE))
        self.turn += 1
        return self.windows[self.turn - 1].extend(k_BTGE, v_BTGE)
