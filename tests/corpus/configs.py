"""Section `data` for tests: plain text, and what a test changes of it."""

from typing import Any

from pipeline.corpus.config import DataConfig

_TEXT: dict[str, Any] = {
    "source": "text",
    "files": (),
    "text_field": "text",
    "document_separator": None,
    "val_files": (),
    "val_frac": 0.1,
    "max_documents": None,
    "vocab_size": 512,
    "tokenizer_model": None,
    "case_ops": None,
    "shard_tokens": 4096,
    "fineweb": None,
}


def data_config(**changes: Any) -> DataConfig:
    """Return a section with some values changed."""
    return DataConfig(**{**_TEXT, **changes})
