"""Loading a SentencePiece tokenizer, refusing one whose bytes cannot be counted.

The one idea: the byte rules of the metric attribute a word's leading space to the piece that carries it, which is only
right when the space mark is a piece of its own (otherwise it falls apart into byte pieces that count three bytes).

Source: the scoring rules of the Parameter Golf challenge (bits per byte).
Checked by: tests/corpus/test_tokenizer.py.
"""

from pathlib import Path

import sentencepiece

SPACE_MARK = "\u2581"


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Load a SentencePiece model; ValueError when it is absent, damaged or lacks the space mark as its own piece."""
    if not path.is_file():
        raise ValueError(f"{path}: no such tokenizer; run `dvc repro -f prepare` or correct data.tokenizer_model")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces = processor.id_to_piece([*range(processor.vocab_size())])
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: SentencePiece cannot load it ({str(error)!r}); train or fetch it anew") from error
    space_id = processor.piece_to_id(SPACE_MARK)
    if pieces[space_id] != SPACE_MARK or processor.is_unused(space_id):
        raise ValueError(
            f"{path}: the space mark U+2581 is not a piece of its own, so bytes cannot be counted; "
            "use another tokenizer or train one (data.tokenizer_model: null)"
        )
    return processor
