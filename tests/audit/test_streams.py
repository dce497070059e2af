"""The audit's streams: documents whose text is known, empty, one-token and long ones; other words where asked."""

import numpy as np
import pytest

from pipeline.audit.streams import StreamMaker


@pytest.fixture
def maker(small_processor) -> StreamMaker:
    return StreamMaker(small_processor)


def test_documents_have_their_lengths_and_their_texts(maker: StreamMaker, small_processor) -> None:
    stream = maker.stream("some", [12, 0, 1, 40])
    assert len(stream.starts) == len(stream.texts) == 4
    lengths = np.diff([*stream.starts, len(stream.tokens)]) - 1
    assert list(lengths[1:3]) == [0, 1]
    assert lengths[0] >= 12
    assert lengths[3] >= 40
    assert [small_processor.encode(text) for text in stream.texts] == [
        part[1:].tolist() for part in np.split(stream.tokens, stream.starts[1:])
    ]


def test_phrases_recur(maker: StreamMaker) -> None:
    tokens = maker.stream("one", [200]).tokens.tolist()
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    assert len(set(triples)) < 0.8 * len(triples)


def test_a_repeated_text_ends_as_its_first_half_does(maker: StreamMaker) -> None:
    tokens = maker.repeated("twice", 12).tokens
    half = len(tokens) // 2
    np.testing.assert_array_equal(tokens[1 : half + 1], tokens[half + 1 :])


def test_equal_seeds_give_equal_streams(small_processor) -> None:
    first, second = (StreamMaker(small_processor).stream("x", [30, 5]).tokens for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_changed_tokens_are_other_words_and_the_documents_stay(maker: StreamMaker) -> None:
    stream = maker.stream("some", [30, 0, 20])
    changed = maker.changed(stream, np.arange(10, len(stream.tokens)))
    np.testing.assert_array_equal(changed[:10], stream.tokens[:10])
    is_bos = stream.tokens == maker.bos_id
    np.testing.assert_array_equal(changed == maker.bos_id, is_bos)
    assert (changed[10:][~is_bos[10:]] != stream.tokens[10:][~is_bos[10:]]).all()
