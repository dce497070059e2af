"""Training a SentencePiece tokenizer with the challenge's settings, on a bounded sample of the training text.

The one idea: the sample holds the documents with the smallest content digests that fit a byte limit, so that it is
uniform, deterministic, independent of the documents' order and of bounded memory. The model is trained from an
iterator into memory and therefore holds no path, name or time: the same text gives the same bytes.

Text with few spaces or none leaves the space mark below the trainer's coverage. Only then is it required by name and
the training repeated: a model states its settings, so requiring it always would change the bytes of every other.

Source: the trainer settings inside the challenge's published models (`fineweb_*_bpe.model`).
Differs: documents longer than the trainer's sentence limit are cut where the published trainings dropped them.
Checked by: tests/corpus/test_tokenizer.py.
"""

import heapq
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import sentencepiece

from pipeline.data.case_ops import CaseForm, encode_case
from pipeline.data.tokenizer import SPACE_MARK

_SAMPLE_BYTES = 128 << 20
# The trainer drops longer sentences and aborts the process on words beyond 16-bit positions.
_SENTENCE_BYTES = 4192
_LONGEST_CHARACTER_BYTES = 4
_NORMALISATION = "nmt_nfkc"


class DocumentSample:
    """The documents with the smallest digests, within `limit_bytes` of UTF-8 text."""

    def __init__(self, limit_bytes: int = _SAMPLE_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._sample_bytes = 0
        self._largest_first: list[tuple[int, str]] = []  # heap of (-digest, text)
        # Once a document had to leave, none with its digest or a larger one may enter: order would matter otherwise.
        self._cutoff = 1 << 256

    def add(self, digest: bytes, text: str) -> None:
        """Offer a document with its sha256; the largest digests leave when the limit is exceeded, one always stays."""
        rank = int.from_bytes(digest, "big")
        if rank >= self._cutoff:
            return
        heapq.heappush(self._largest_first, (-rank, text))
        self._sample_bytes += len(text.encode())
        while len(self._largest_first) > 1 and (
            self._sample_bytes > self.limit_bytes or -self._largest_first[0][0] >= self._cutoff
        ):
            negative_rank, removed = heapq.heappop(self._largest_first)
            self._cutoff = -negative_rank
            self._sample_bytes -= len(removed.encode())

    def documents(self) -> list[str]:
        """Return the sample in the order of its digests."""
        return [text for _, text in sorted(self._largest_first, reverse=True)]


def train_tokenizer(documents: Sequence[str], vocab_size: int, form: CaseForm | None = None) -> bytes:
    """Train a BPE model of exactly `vocab_size` pieces, the space mark among them, and return its serialised bytes.

    With a `form` its markers are reserved, and the pieces those of texts without capitals. ValueError when the text is
    too small or too varied for that many pieces.
    """
    reserved = {}
    if form is not None:
        documents, reserved = _without_capitals(documents, form), {"user_defined_symbols": form.reserved}
    try:
        model = _train_bpe(documents, vocab_size, **reserved)
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        if processor.piece_to_id(SPACE_MARK) == processor.unk_id():
            model = _train_bpe(documents, vocab_size, required_chars=SPACE_MARK, **reserved)
            processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"data.vocab_size: got {vocab_size}, which this text cannot fill{_advice(error)}") from error
    pieces = processor.vocab_size()
    if pieces != vocab_size:
        raise ValueError(
            f"data.vocab_size: got {vocab_size}, but the text yields only {pieces} pieces; "
            f"add text or set data.vocab_size and model.vocab_size to {pieces} or less"
        )
    return model


def _without_capitals(documents: Sequence[str], form: CaseForm) -> list[str]:
    """Return documents as they are encoded: normalised, then with markers for their capitals."""
    normaliser = sentencepiece.SentencePieceNormalizer(
        rule_name=_NORMALISATION, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=True
    )
    return [encode_case(str(normaliser.normalize(text)), form) for text in documents]


def _train_bpe(documents: Sequence[str], vocab_size: int, **required: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_training_sentences(documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=0.999,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name=_NORMALISATION,
        add_dummy_prefix=False,
        hard_vocab_limit=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
        **required,
    )
    return model.getvalue()


def _advice(error: Exception) -> str:
    """Return cause and remedy of a training that failed."""
    if numbers := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
        least = int(numbers[1]) + 1  # room for the space mark, which that number may lack
        return (
            ": bytes, controls and its frequent characters alone take more; "
            f"set data.vocab_size and model.vocab_size to {least} or more"
        )
    cause = str(error).splitlines()[-1].rpartition("]")[2].strip()
    return f" ({cause or 'it holds no characters'}); add text"


def _training_sentences(documents: Sequence[str]) -> Iterator[str]:
    """Yield documents, the long ones in parts below the trainer's sentence limit, cut at spaces where there are any."""
    longest = _SENTENCE_BYTES // _LONGEST_CHARACTER_BYTES
    for text in documents:
        if len(text.encode()) <= _SENTENCE_BYTES:
            yield text
            continue
        start = 0
        while start < len(text):
            stop = start + longest
            space = text.rfind(" ", start + 1, stop) if stop < len(text) else -1
            stop = space if space > 0 else stop
            yield text[start:stop]
            start = stop
