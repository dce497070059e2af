"""The code of a record: unwrapped without being run, counted with every file that it needs, bounded."""

import base64
import bz2
import lzma
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard

from pipeline.record.ship import wrap
from pipeline.verification.folder import read_record
from pipeline.verification.program import MOST_SOURCE_BYTES, ShippedCode, read_program, unwrapped_layers
from pipeline.verification.verify import verify_folder

SOURCE = "import math\nprint(math.pi)\n" + "# text\n" * 300
PACKERS = {
    "lzma": lzma.compress,
    "bz2": bz2.compress,
    "zlib": zlib.compress,
    "brotli": brotli.compress,
    "zstandard": zstandard.compress,
}


def unwrapped(content: bytes) -> str:
    return unwrapped_layers(content)[-1].decode()


def program(folder: Path, text: str | bytes, others: dict[str, str] | None = None) -> ShippedCode:
    (folder / "train_gpt.py").write_bytes(text.encode() if isinstance(text, str) else text)
    for name, content in (others or {}).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return read_program(read_record(folder))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("encoder", ["b85encode", "b64encode", "a85encode"])
def test_the_wrappers_people_use_are_read(packer, encoder):
    packed = getattr(base64, encoder)(PACKERS[packer](SOURCE.encode()))
    decoder = encoder.replace("encode", "decode")
    imported = f"import {packer} as L,base64 as B\nexec(L.decompress(B.{decoder}({packed!r})))"
    named = f"from {packer} import decompress\nfrom base64 import {decoder}\nd={packed!r}\n"
    named += f"exec(decompress({decoder}(d)).decode())"
    assert [unwrapped(text.encode()) for text in (imported, named)] == [SOURCE] * 2


def test_ours_and_a_wrapper_in_a_wrapper_are_read_too():
    assert unwrapped(wrap(SOURCE)) == SOURCE
    inner = f"import zlib\nexec(zlib.decompress({zlib.compress(SOURCE.encode())!r}))"
    assert unwrapped(f"import zlib\nexec(zlib.decompress({zlib.compress(inner.encode())!r}))".encode()) == SOURCE
    assert unwrapped(SOURCE.encode()) == SOURCE


FILES = {
    "helper.py": "import deeper\nimport train_gpt\n",
    "deeper.py": "1",
    "unused.py": "22",
    "parts/__init__.py": "",
    "parts/one.py": "1\n",
    "parts/two.py": "from . import three\n",
    "parts/three.py": "333",
    "table.json": "{}",
}


def test_every_file_that_is_imported_or_opened_counts(tmp_path):
    source = "import json, helper\nfrom parts import one\nfrom parts.two import x\nopen('table.json')\nimport absent\n"
    found = program(tmp_path, source, FILES)
    sizes = {"train_gpt.py": len(source), **{name: len(text) for name, text in FILES.items() if name != "unused.py"}}
    assert found.sizes == sizes
    assert found.known_sizes[sum(sizes.values())] == "all code on disk"


def test_what_a_program_writes_and_its_tokenizer_do_not_count(tmp_path):
    (tmp_path / "train.log").write_text("seed:1\nfinal val_loss:2.0 val_bpb:1.0\n")
    (tmp_path / "tok.model").write_bytes(b"\n\x0e\0\xff")
    (tmp_path / "tok.vocab").write_text("a\t0\n")
    (tmp_path / "submission.json").write_text("{}")
    source = "open('train.log'), 'tok.model', 'tok.vocab', 'submission.json', 'README.md'"
    assert list(program(tmp_path, source).sizes) == ["train_gpt.py"]


HIDDEN = {
    "importlib.import_module('helper')": "helper.py",
    "__import__('helper')": "helper.py",
    "import sys; sys.path.insert(0, 'src'); import helper": "src/helper.py",
    "import helper": "helper.cpython-311-x86_64-linux-gnu.so",
    "exec(open(os.path.join('lib', 'helper.py')).read())": "lib/helper.py",
    "exec((Path('lib') / 'helper.py').read_text())": "lib/helper.py",
    "exec(open(f'{folder}/helper.py').read())": "helper.py",
    "subprocess.run('python helper.py --all', shell=True)": "helper.py",
    "[exec(open(each).read()) for each in glob.glob('lib/*.py')]": "lib/helper.py",
    "exec(open('kernel.txt').read())": "kernel.txt",
    "exec(open('tok.model').read())": "tok.model",
    f"import zlib\nzlib.decompress({zlib.compress(SOURCE.encode())!r})\nimport helper": "helper.py",
}


@pytest.mark.parametrize("source", HIDDEN)
def test_code_that_is_reached_in_other_ways_counts(tmp_path, source):
    found = program(tmp_path, source, {HIDDEN[source]: "print(1)\n"})
    assert found.sizes == {"train_gpt.py": len(source), HIDDEN[source]: 9}
    assert found.others == {}


def test_code_that_nothing_names_is_said_where_it_would_matter(published):
    (published / "rest.py").write_text("#" * 1_100_000)
    told = [each for each in verify_folder(published) if each.check == "shipped size"]
    assert {each.verdict for each in told} == {"warning"}
    assert told[0].message.endswith("bytes as shipped; more, should it need rest.py")


def test_code_beside_the_program_breaks_the_limit(published):
    (published / "train_gpt.py").write_text("import rest\n" + "#" * 42 + "\n")
    (published / "rest.py").write_text("# " + "x" * 289_998)
    log = published / "train_seed444.log"
    log.write_text(log.read_text().replace("15000000", "15800000").replace("15000055", "15800055"))
    told = [each.message for each in verify_folder(published) if each.check == "shipped size"]
    assert told[0] == (
        "train_seed444.log: train_gpt.py 55 + rest.py 290,000 + model 15,800,000 = 16,090,055 of 16,000,000 bytes "
        "as shipped"
    )


@pytest.mark.parametrize("packer", PACKERS)
def test_a_wrapper_without_end_is_refused(tmp_path, packer):
    packed = PACKERS[packer](b"#" * (1 << 26))
    (told,) = program(tmp_path, f"import {packer} as z\nexec(z.decompress({packed!r}))").findings
    assert (told.verdict, told.message) == (
        "contradiction",
        f"train_gpt.py is not read: a wrapper unpacks to more than {MOST_SOURCE_BYTES:,} bytes",
    )


DEEP = ["(" * 100_000, "-" * 100_000 + "1", "a" + "+a" * 250_000, "x = " + "[" * 5000 + "]" * 5000]
NO_PROGRAMS = ["def f(:", "\0", *DEEP]


@pytest.mark.parametrize("text", NO_PROGRAMS, ids=range(len(NO_PROGRAMS)))
def test_what_is_no_program_or_too_deep_is_one_finding(tmp_path, text):
    assert len(program(tmp_path, text).findings) == 1


def test_a_comment_that_speaks_of_a_parser_is_no_command_line(tmp_path):
    assert not program(tmp_path, "# ArgumentParser\n").has_command_line
    assert program(tmp_path, "import argparse\nargparse.ArgumentParser()\n").has_command_line
    assert program(
        tmp_path, wrap("from argparse import ArgumentParser as A\nA()\n" + "# text\n" * 300)
    ).has_command_line


def test_of_many_patterns_the_same_ones_are_followed(tmp_path):
    source = "\n".join(f"glob('{number:02}*.py')" for number in reversed(range(60)))
    assert list(program(tmp_path, source, {"00a.py": "1", "59a.py": "1"}).sizes) == ["train_gpt.py", "00a.py"]
