"""Whatever a reader raises is told in words, as one short line."""

import errno
import json
import os
import struct
import zlib

import pytest

from pipeline.base.checks import counted, explain_failure, require

DAMAGED = "it is damaged: its parts contradict each other"
CASES = [
    (KeyError(101), DAMAGED),
    (KeyError("vocab_size"), "it has no entry 'vocab_size'"),
    (KeyError("nats is not a file in the archive"), "nats is not a file in the archive"),
    (KeyError(), DAMAGED),
    (IndexError("pop from empty list"), DAMAGED),
    (TypeError("'NoneType' object is not subscriptable"), DAMAGED),
    (AttributeError("'int' object has no attribute 'shape'"), DAMAGED),
    (AssertionError(), DAMAGED),
    (ValueError("-3"), DAMAGED),
    (EOFError(), "it ends too early"),
    (struct.error("unpack requires a buffer of 4 bytes"), "it ends too early"),
    (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
    (MemoryError(), "it asks for more memory than there is"),
    (OSError(errno.EINVAL, os.strerror(errno.EINVAL)), DAMAGED),
    (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "file"), "Permission denied"),
    (OSError("Corrupt snappy compressed data."), "Corrupt snappy compressed data"),
    (zlib.error("Error -3 while decompressing data: invalid code"), "while decompressing data: invalid code"),
    (ValueError("This file holds pickled data. You can load it unsafely."), "This file holds pickled data"),
    (RuntimeError("archive is corrupted here\n at line 3\n"), "archive is corrupted here"),
]


@pytest.mark.parametrize(("error", "says"), CASES, ids=[repr(error)[:40] for error, _ in CASES])
def test_a_failure_is_explained_in_words(error: Exception, says: str):
    assert explain_failure(error) == says


def test_what_a_decoder_says_keeps_its_place():
    for read, says in (
        (lambda: b"caf\xe9".decode(), "a text in it is not UTF-8 at byte 3"),
        (lambda: json.loads("{"), "char 1"),
    ):
        with pytest.raises(ValueError, match=r"\S") as caught:
            read()
        assert says in explain_failure(caught.value)


@pytest.mark.parametrize(("number", "said"), [(0, "0 files"), (1, "1 file"), (1200, "1,200 files")])
def test_one_of_a_thing_is_no_plural(number: int, said: str):
    assert counted(number, "file") == said
    assert counted(1, "process", "es") == "1 process"


def test_a_refused_tuple_is_shown_as_the_list_that_the_file_has():
    with pytest.raises(ValueError, match=r"^data\.files: got \[\], expected"):
        require(False, "data.files", (), "a file")
