"""Which run is a seed's, and what a hostile folder may cost: one finding each, seconds, and 300 MB."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from pipeline.verification.folder import read_record
from pipeline.verification.verify import verify_folder
from tests.conftest import REPO

MOST_BYTES, MOST_SECONDS = 300 << 20, 5


def log(seed: int, bpb: str, steps: int = 10) -> str:
    return f"seed: {seed}\nstep:{steps}/99 train_time:1000ms\nfinal val_loss:2.0 val_bpb:{bpb}\n"


@pytest.mark.parametrize(
    ("name", "logged", "filed"),
    [
        ("train_seed4.log", 4, "4"),
        ("train_seed4.log", 9, "4"),
        ("logs/train4.txt", 4, "4"),
        ("runs/seed_4/output.log", 4, "4"),
        ("train.log", 4, "4"),
        ("train_d832_seed4.log", 4, "4"),
    ],
)
def test_a_run_is_filed_by_its_name_or_else_by_its_seed(tmp_path: Path, name: str, logged: int, filed: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(log(logged, "1.1"))
    (tmp_path / "submission.json").write_text('{"seed_results": {"4": {"val_bpb": 1.1}, "5": {"val_bpb": 1.1}}}')
    record = read_record(tmp_path)
    assert {seed: run.name for seed, run in record.runs.items()} == {filed: name}


def test_of_two_runs_of_a_seed_the_one_that_agrees_with_more_is_taken(tmp_path: Path) -> None:
    (tmp_path / "train_seed4.log").write_text(log(4, "1.3", steps=10))
    (tmp_path / "train_seed4_long.log").write_text(log(4, "1.1", steps=20))
    entry = '{"seed_results": {"4": {"val_bpb": 1.1, "steps": %d}}}'
    (tmp_path / "submission.json").write_text(entry % 20)
    assert read_record(tmp_path).runs["4"].name == "train_seed4_long.log"
    (tmp_path / "submission.json").write_text(entry % 10)
    told = [each.message for each in verify_folder(tmp_path) if each.verdict == "contradiction"]
    assert told == ["seed_results.4.val_bpb 1.1 stated, train_seed4.log line 3 (final) says 1.3"]


def test_several_runs_in_one_log_are_each_seeds_own(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text(log(4, "1.1") + log(5, "1.2"))
    (tmp_path / "submission.json").write_text('{"seed_results": {"4": {"val_bpb": 1.1}, "5": {"val_bpb": 1.2}}}')
    assert {each.verdict for each in verify_folder(tmp_path) if each.check == "scores"} == {"agreement"}
    (tmp_path / "submission.json").write_text('{"seed_results": {"4": {"val_bpb": 1.2}, "5": {"val_bpb": 1.1}}}')
    assert {each.verdict for each in verify_folder(tmp_path) if each.check == "scores"} == {"contradiction"}


def test_one_log_under_two_seeds_contradicts(published: Path) -> None:
    (published / "train_seed300.log").write_text((published / "train_seed444.log").read_text())
    told = [each.message for each in verify_folder(published) if each.check == "runs"]
    assert told[0] == "train_seed444.log has the content of train_seed300.log: one run under two names"


def test_another_source_in_a_log_contradicts(published: Path) -> None:
    source = "import torch\ndef f(): pass\n"
    (published / "train_gpt.py").write_text(source)
    for printed, verdict in ((source, "agreement"), (source + "f()\n", "contradiction")):
        text = f"{printed}{'=' * 100}\n" + log(444, "1.1")
        (published / "train_seed444.log").write_text(text)
        found = [each for each in verify_folder(published) if "prints" in each.message]
        assert [each.verdict for each in found] == [verdict]


def big_line(folder: Path) -> None:
    (folder / "train_seed444.log").write_bytes(b"val_loss:1.1 " * 16_000_000)


def sparse_log(folder: Path) -> None:
    os.truncate(folder / "train_seed444.log", 20 << 30)


def bomb(folder: Path) -> None:
    maker = zstandard.ZstdCompressor(3).compressobj()
    packed = b"".join([*(maker.compress(bytes(1 << 24)) for _ in range(256)), maker.flush()])
    (folder / "train_gpt.py").write_text(f"import zstandard as z\nexec(z.decompress({packed!r}))")


def link_out(folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")


def device(folder: Path) -> None:
    (folder / "extra.log").symlink_to("/dev/zero")


def pipe(folder: Path) -> None:
    (folder / "submission.json").unlink()
    os.mkfifo(folder / "submission.json")


def many_logs(folder: Path) -> None:
    for number in range(150):
        (folder / f"a{number}.log").write_text("step:1/2 val_loss:1.0 val_bpb:1.0 train_time:1ms\n" * 5000)


def wide_characters(folder: Path) -> None:
    (folder / "train_seed444.log").write_text("\U0001f600 final_ val_bpb\n" * 49_000 + "\U0001f600" * 1_500_000)


def huge_json(folder: Path) -> None:
    (folder / "submission.json").write_text("[" + "[]," * 330_000 + "[]]")


def huge_artifact(folder: Path) -> None:
    (folder / "model_seed444.fwy").write_bytes(b"")
    os.truncate(folder / "model_seed444.fwy", 20 << 30)
    with open(folder / "train_seed444.log", "a") as log:
        log.write("sha256 00 model_seed444.fwy\nsha256 00 model_seed444.fwy\nsha256 00 README.md\n")


def many_tokenizers(folder: Path) -> None:
    (folder / "train_gpt.py").write_text("import glob\nglob.glob('*.model')\n")
    for number in range(3000):
        (folder / f"{number}.model").touch()
        os.truncate(folder / f"{number}.model", 8_000_000)


def dense_source(folder: Path) -> None:
    (folder / "train_gpt.py").write_text("a=0\nb=[" + "a," * 299_000 + "]")


def nearly_dense_source(folder: Path) -> None:
    (folder / "train_gpt.py").write_text("a=0\nb=[" + "a," * 59_000 + "]")


def many_modules(folder: Path) -> None:
    (folder / "train_gpt.py").write_text("\n".join(f"import m{number}" for number in range(100)))
    for number in range(100):
        (folder / f"m{number}.py").write_text("a,b=0,1\n" * 10_000)


def escaping_name(folder: Path) -> None:
    (folder / "submission.json").write_text('{"val_bpb": 1.0, "tokens": "x", "seeds": ["../../etc/passwd"]}')
    (folder / "train_gpt.py").write_text("open('../../etc/passwd')\nimport os\n")


HOSTILE = {
    big_line: "train_seed444.log: got '208,000,000 bytes', expected at most 8,000,000",
    sparse_log: "train_seed444.log: got '21,474,836,480 bytes', expected at most 8,000,000",
    bomb: "train_gpt.py is not read: a wrapper unpacks to more than 600,000 bytes",
    link_out: "README.md: a link, expected a file: not read",
    device: "extra.log: a link, expected a file: not read",
    pipe: "submission.json: a pipe, expected a file: not read",
    many_logs: "140 of 152 logs are not read: a record's logs are smaller, or fewer",
    wide_characters: None,
    huge_artifact: "model_seed444.fwy: 21,474,836,480 bytes, with the other files more than 400,000,000: no digest",
    huge_json: "submission.json: not valid JSON (got list, expected an object)",
    dense_source: "train_gpt.py is not read: it has more than 120,000 tokens",
    nearly_dense_source: None,
    many_modules: "train_gpt.py is not read: it imports more than 300,000 bytes of local modules",
    many_tokenizers: None,
    escaping_name: None,
}


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_whatever_lies_there_costs_little(published: Path, make) -> None:
    make(published)
    code = f"import sys; sys.argv[1:] = ['verify', {str(published)!r}]; from stages.cli import main; main()"
    measured = (
        f"import resource, subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}]); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss, used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", measured], cwd=REPO, capture_output=True, text=True, check=True)
    *lines, used = done.stdout.splitlines()
    peak_kib, seconds = map(float, used.split())  # of its own: others may be busy
    assert seconds < MOST_SECONDS
    assert peak_kib * 1024 < MOST_BYTES
    assert done.stderr == ""
    told = HOSTILE[make]
    assert told is None or " ".join(done.stdout.split()).count(told) == 1, done.stdout
    assert lines[-1].startswith("compared ")
    assert done.stdout.isascii()
