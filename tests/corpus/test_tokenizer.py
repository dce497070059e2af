"""Tokenizer loading refuses what cannot be counted; training is deterministic and says why it cannot."""

import hashlib
import random
import re

import pytest
import sentencepiece

from pipeline.corpus.encoding import encode_documents
from pipeline.corpus.tokenizer_training import DocumentSample, train_tokenizer
from pipeline.data.byte_count import byte_table
from pipeline.data.text import normalised_text
from pipeline.data.tokenizer import load_tokenizer
from tests.corpus.test_encoding import published_model


def test_tokenizer_without_its_own_space_mark_is_refused(tmp_path):
    """Text without a single space gives a model in which the mark would fall apart into byte pieces."""
    path, texts = tmp_path / "spaceless.model", ["abcabcab", "bcbcabca"] * 20
    path.write_bytes(published_model(texts, model_type="bpe", vocab_size=268, add_dummy_prefix=False))
    with pytest.raises(ValueError, match=r"spaceless\.model: the space mark U\+2581 is not a piece of its own"):
        load_tokenizer(path)


def test_absent_and_damaged_models(tmp_path, toy_model):
    with pytest.raises(ValueError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "absent.model")
    damaged = tmp_path / "damaged.model"
    sound = toy_model.read_bytes()
    for content in (b"", b"not a model", sound[:5000], sound.replace("\u00e9".encode(), b"\xc3)")):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.model: SentencePiece cannot load it \(.* .* .*\); "):
            load_tokenizer(damaged)


def test_the_cause_of_a_damaged_model_is_sentencepieces_own(tmp_path, shared):
    (tmp_path / "empty.model").write_bytes(b"")
    nul = shared / "hostile" / "tokenizer_cause_hidden" / "t_nulpiece.model"
    for path, cause in ((tmp_path / "empty.model", "unk is not defined"), (nul, "must not include null character")):
        with pytest.raises(ValueError, match=rf"\(.INTERNAL: .*{cause}.*\); train or fetch it anew"):
            load_tokenizer(path)


def test_settings_are_the_challenges(toy_processor):
    assert [toy_processor.id_to_piece(token) for token in range(4)] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert toy_processor.vocab_size() == 512
    assert sum(toy_processor.is_byte(token) for token in range(512)) == 256  # byte fallback
    assert toy_processor.encode("ka", out_type=str)[0][0] != "\u2581"  # no dummy prefix
    assert all(len(piece) <= 2 for piece in toy_processor.encode("x 424242", out_type=str)[1:])  # split digits
    assert toy_processor.normalize("\ufb01\u00a0 b\t\n") == "fi\u2581b"  # nmt_nfkc


def test_normaliser_is_the_shared_models(shared, toy_processor):
    challenge = load_tokenizer(shared / "data" / "fineweb_1024_bpe.model")
    text = "".join(map(chr, [*range(1, 0xD800, 7), *range(0xE000, 0x1F700, 11)]))
    assert toy_processor.normalize(text) == challenge.normalize(text)
    assert toy_processor.normalize("  a  \u2581 b \n\n c\x00 ") == challenge.normalize("  a  \u2581 b \n\n c\x00 ")


def test_training_is_deterministic(toy_documents, toy_model):
    assert train_tokenizer(toy_documents, 512) == toy_model.read_bytes()


def test_long_documents_count_in_full():
    """A document far beyond the trainer's sentence limit is trained on, spaceless stretches included."""
    long_document = " ".join(["lorem", "ipsum", "dolor"] * 4000) + "z" * 70000
    model = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer([long_document], 290))
    assert model.encode("lorem ipsum dolor zzzz", out_type=str)[1:3] == ["\u2581ipsum", "\u2581dolor"]


def test_vocabulary_that_the_text_cannot_fill():
    with pytest.raises(ValueError, match=r"data\.vocab_size: got 1024, but the text yields only \d+ pieces; add text"):
        train_tokenizer(["hello world"], 1024)
    with pytest.raises(ValueError, match=r"data\.vocab_size: got 262, which this text cannot fill"):
        train_tokenizer(["the quick brown fox jumps over the lazy dog"], 262)
    with pytest.raises(ValueError, match=r"cannot fill \(it holds no characters\); add text"):
        train_tokenizer(["\u200b"], 300)


SPACELESS = {
    "chinese": [chr(0x4E00 + number * 7 % 400) * 3 + chr(0x4E00 + number) for number in range(200)],
    "thai": ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01" * 4] * 20,
    "emoji": ["\U0001f602\U0001f469\u200d\U0001f467" * number for number in range(1, 60)],
    "digits": [str(7**number) for number in range(1, 60)],
    "one character": ["a" * 5000],
    "marks": ["\u0301\u0323\u0300" * 50] * 10,
    "one letter": ["a"],
    "two words": ["ab ab"],
    "one space": ["xyz" * 2000 + " " + "zyx" * 2000],
}


@pytest.mark.parametrize("name", SPACELESS)
@pytest.mark.parametrize("vocab_size", [260, 700, 4096])
def test_text_with_few_or_no_spaces_trains_once_the_advice_is_followed(tmp_path, name, vocab_size):
    path, texts = tmp_path / "trained.model", SPACELESS[name]
    try:
        path.write_bytes(train_tokenizer(texts, vocab_size))
    except ValueError as error:
        vocab_size = int(re.search(r"set data\.vocab_size and model\.vocab_size to (\d+)", str(error))[1])
        path.write_bytes(train_tokenizer(texts, vocab_size))
    processor = load_tokenizer(path)
    assert processor.vocab_size() == vocab_size
    batch = encode_documents(processor, byte_table(processor), [*texts, "words with spaces"])
    assert batch.bytes == sum(len(normalised_text(processor, text).encode()) for text in [*texts, "words with spaces"])


def test_sample_is_bounded_and_independent_of_order(toy_documents):
    def sample(documents):
        chosen = DocumentSample(limit_bytes=5000)
        for text in documents:
            chosen.add(hashlib.sha256(text.encode()).digest(), text)
        return chosen.documents()

    forwards = sample(toy_documents)
    for seed in range(5):
        shuffled = random.Random(seed).sample(toy_documents, len(toy_documents))
        assert forwards == sample(shuffled)
    assert 3000 < sum(len(text.encode()) for text in forwards) <= 5000
    by_digest = sorted(toy_documents, key=lambda text: hashlib.sha256(text.encode()).digest())
    assert forwards == by_digest[: len(forwards)]
