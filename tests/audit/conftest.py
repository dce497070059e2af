"""A tokenizer small enough to enumerate its vocabulary many times."""

from pathlib import Path

import pytest
import sentencepiece

from pipeline.data.tokenizer import load_tokenizer


@pytest.fixture(scope="session")
def small_processor(tmp_path_factory: pytest.TempPathFactory) -> sentencepiece.SentencePieceProcessor:
    """Return a tokenizer of 64 pieces without byte pieces."""
    words = " ".join(f"{first}{second}" for first in "abcdefgh" for second in "ijklmnop")
    prefix = tmp_path_factory.mktemp("tokenizer") / "small"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([words] * 20), model_prefix=str(prefix), vocab_size=64, model_type="bpe", minloglevel=5
    )
    return load_tokenizer(Path(f"{prefix}.model"))
