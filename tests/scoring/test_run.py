"""From tokens to ledger: what does not fit is refused before anything is scored."""

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.base.progress import silent
from pipeline.data.byte_count import ByteTable, count_bytes
from pipeline.scoring import score_tokens
from pipeline.scoring.protocols import parse_protocol
from pipeline.scoring.run import score_item
from tests.scoring.scoring_toys import BLOCKS, random_tokens, tiny_network


def table(pieces: int = 64, width: int = 3) -> ByteTable:
    return ByteTable(np.full(pieces, width, np.int16), np.zeros(pieces, np.bool_), np.zeros(pieces, np.bool_))


def run(byte_table: ByteTable, tokens: np.ndarray, progress=silent):
    return score_item(tiny_network(), tokens, byte_table, parse_protocol(BLOCKS), torch.device("cpu"), 64, progress)


def test_a_ledger_holds_the_scores_and_the_bytes() -> None:
    tokens = random_tokens(100).numpy().astype(np.uint16)
    ledger = run(table(), tokens)
    # Batches of another size: a processor may add up in another order.
    np.testing.assert_allclose(ledger.nats, score_tokens(tiny_network(), tokens, BLOCKS)[ledger.target], atol=2e-6)
    np.testing.assert_array_equal(ledger.bytes, count_bytes(tokens, table())[ledger.target])
    assert ledger.protocol == dataclasses.asdict(parse_protocol(BLOCKS))


def test_progress_tells_the_bpb_of_all_targets_so_far() -> None:
    told: list[tuple[int, str]] = []
    width_V = np.arange(1, 65, dtype=np.int16)
    byte_table = table()._replace(base_V=width_V)
    ledger = run(byte_table, random_tokens(100).numpy(), lambda done, total, note: told.append((done, note)))
    assert told[-1] == (99, f"{ledger.val_bpb:.4f} bpb")
    done, note = told[0]
    first_bpb = ledger.nats[:done].sum() / ledger.bytes[:done].sum() / np.log(2)
    assert (done < 99, note) == (True, f"{first_bpb:.4f} bpb")


@pytest.mark.parametrize(
    ("byte_table", "tokens", "says"),
    [
        (table(pieces=65), random_tokens(100), r"model\.vocab_size: got 64, expected the tokenizer's 65 pieces"),
        (table(pieces=63), torch.zeros(100, dtype=torch.int64), r"model\.vocab_size: got 64, .* 63 pieces"),
        (table(width=0), random_tokens(100), "validation text: got 0, expected targets that stand for at least one"),
        (table(), random_tokens(1), "validation text: got 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_scoring(byte_table: ByteTable, tokens: torch.Tensor, says: str) -> None:
    steps: list[int] = []
    with pytest.raises(ValueError, match=says) as refusal:
        run(byte_table, tokens.numpy(), lambda done, total, note: steps.append(done))
    assert steps == []
    assert "\n" not in str(refusal.value)
