"""Capitals taken out of the text: a word keeps its lower-case letters, a marker says which of them were capitals.

The one idea: "The", "the" and "THE" then share their pieces. Per maximal run of ASCII letters, lower case stays as it
is; two or more capitals and nothing else are ALLCAPS and the run in lower case; of any other run TITLE makes the first
letter a capital, CAPNEXT, inside of a run, the one after it. A marker that the text itself holds is escaped. All other
characters, other alphabets included, stay as they are, so that the inverse gives every text back.

Where TITLE and ALLCAPS stand is the form: directly before the word in `published` and `fused` (whose tokenizers have a
piece for the space mark and the marker together); in `before-space` one place further to the front, before the space
that directly precedes the word, so that "_the" stays one piece. Without a space there, or where that space begins the
text (tokenizers may drop it), the marker stands directly before the word in this form, too.

The markers of `before-space` are characters of their own: a tokenizer tells its form by the pieces that it reserves.

Source: challenge pull requests 1729 and 1736 (published), 2109 (fused); before-space is ours.
Checked by: tests/data/test_case_ops.py, against a state machine.
"""

import re
from typing import NamedTuple

import sentencepiece

from pipeline.base.checks import require
from pipeline.data.tokenizer import SPACE_MARK

FIRST_RESERVED = 4
"""Id of the first marker; before it are pad, BOS, EOS and unknown."""


class CaseForm(NamedTuple):
    """The markers of a form, and where they stand."""

    title: str
    all_caps: str
    cap_next: str
    escape: str
    before_space: bool = False
    """Title and all_caps stand before the space."""
    fused: bool = False
    """The tokenizer has pieces of a space and one of them."""

    @property
    def markers(self) -> str:
        """All four, in the order of their ids."""
        return self.title + self.all_caps + self.cap_next + self.escape

    @property
    def reserved(self) -> list[str]:
        """The pieces that a tokenizer reserves for the form, from `FIRST_RESERVED` on."""
        return [*self.markers, *(SPACE_MARK + marker for marker in self.markers[:2] if self.fused)]

    @property
    def silent_tokens(self) -> tuple[int, ...]:
        """Ids of the reserved pieces, none of which stands for a byte."""
        return tuple(range(FIRST_RESERVED, FIRST_RESERVED + len(self.reserved)))


CASE_FORMS = {
    "fused": CaseForm("\ue001", "\ue002", "\ue003", "\ue004", fused=True),
    "published": CaseForm("\ue001", "\ue002", "\ue003", "\ue004"),
    "before-space": CaseForm("\ue005", "\ue006", "\ue003", "\ue004", before_space=True),
}


def case_form(processor: sentencepiece.SentencePieceProcessor) -> CaseForm | None:
    """Return the form whose pieces a tokenizer reserves, the one with most of them; None for plain text."""
    ids = range(FIRST_RESERVED, min(processor.vocab_size(), FIRST_RESERVED + 6))
    pieces = [processor.id_to_piece(token) for token in ids]
    return next((form for form in CASE_FORMS.values() if pieces[: len(form.reserved)] == form.reserved), None)


def require_case_form(processor: sentencepiece.SentencePieceProcessor, name: str | None) -> None:
    """Raise ValueError unless the named form, or none, is the one whose pieces a tokenizer reserves."""
    form = case_form(processor)
    found = next((each for each in CASE_FORMS if CASE_FORMS[each] == form), None)
    require(found == name, "data.case_ops", name, f"{found or 'null'}, the form that the tokenizer reserves pieces for")


def encode_case(text: str, form: CaseForm) -> str:
    """Return a text with markers for its capitals."""

    def marked(match: re.Match[str]) -> str:
        space, run = match[1] or "", match[2]
        if run is None:
            return form.escape + match[0]
        marker, lowered = _lowered(run, form)
        return marker + space + lowered if form.before_space else space + marker + lowered

    # The space is not the text's first character; the look behind the run keeps long words from being tried in parts.
    pattern = rf"((?!\A) )?(?<![A-Za-z])([a-z]*+[A-Z][A-Za-z]*+)|[{form.markers}]"
    return re.sub(pattern, marked, text)


def decode_case(text: str, form: CaseForm) -> str:
    """Return the text that `encode_case` made this one of; in any other, markers without a letter are dropped."""
    return re.sub(_marked_parts(form), lambda match: "".join(match.groups("")).upper(), text)


def settled_characters(text: str, form: CaseForm) -> int:
    """Return how many characters of a text decode alike whatever follows them."""
    open_part = rf"(?P<open>(?:[{form.title}{form.cap_next}] ?|{form.all_caps} ?[a-z]*|{form.escape})\Z)"
    parts = re.finditer(f"{open_part}|{_marked_parts(form)}", text)
    return next((part.start() for part in parts if part["open"]), len(text))


def _marked_parts(form: CaseForm) -> str:
    """Return the pattern of a marker and, as one of three groups, what it speaks of."""
    one, many, literal = "( ?[a-z])", "( ?[a-z]+)", f"([{form.markers}])"
    return rf"[{form.title}{form.cap_next}]{one}|{form.all_caps}{many}|{form.escape}{literal}|[{form.markers}]"


def _lowered(run: str, form: CaseForm) -> tuple[str, str]:
    """Return the marker before a run of letters, if any, and the run in lower case with those inside of it."""
    if len(run) > 1 and run.isupper():
        return form.all_caps, run.lower()
    inner = re.sub("[A-Z]", lambda match: form.cap_next + match[0].lower(), run[1:])
    return form.title if run[0].isupper() else "", run[0].lower() + inner
