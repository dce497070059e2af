"""A toy tokenizer and documents shared by the data tests."""

import random
from pathlib import Path

import pytest
import sentencepiece

from pipeline.data.tokenizer import load_tokenizer
from pipeline.data.tokenizer_training import train_tokenizer


@pytest.fixture(scope="session")
def toy_documents() -> list[str]:
    """Return 400 deterministic documents of made-up words, digits, accents and emoji."""
    rng = random.Random(7)
    syllables = ["ka", "lo", "mi", "nu", "re", "st", "qu", "\u00e9t", "\u4e2d", "42"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))).capitalize() + "." for _ in range(400)]
    return [f"{text} \U0001f600\u200d" if index % 9 == 0 else text for index, text in enumerate(texts)]


@pytest.fixture(scope="session")
def toy_model(toy_documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a tokenizer of 512 pieces trained on the toy documents."""
    path = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    path.write_bytes(train_tokenizer(toy_documents, 512))
    return path


@pytest.fixture(scope="session")
def toy_processor(toy_model: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the toy tokenizer, loaded."""
    return load_tokenizer(toy_model)
