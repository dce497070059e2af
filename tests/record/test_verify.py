"""`fairway verify`: every disagreement is named by its check; foreign and damaged folders get as far as they go."""

import hashlib
import json
import time
from decimal import Decimal

import pytest
from scipy import stats

from pipeline.record.claims import equal_as_stated, implied_bytes
from pipeline.record.folder import read_record as read
from pipeline.record.statements import Score
from pipeline.record.verify import verify_folder, verify_table
from stages.cli import main

SCRIPT = "import argparse\nargparse.ArgumentParser().parse_args()\n"
LOSSES = {"444": ("1.91946510", "1.13678077"), "300": ("1.92242000", "1.13853000")}
TARGETS = 62_021_632
"""The two lines' quotients of loss and bpb imply 151,080,xxx bytes, as on the challenge's validation set."""


def text_bytes(loss, bpb):
    return TARGETS * float(loss) / (0.6931471805599453 * float(bpb))


def seed_lines(seed, code, artifact):
    loss, bpb = LOSSES[seed]
    return [
        f"val_loader:shards pattern=/data/fineweb_val_*.bin tokens:{TARGETS}",
        "step:4000/4000 val_loss:1.9465 val_bpb:1.1528",
        f"Code size: {code} bytes",
        f"Serialized model int6+brotli: {artifact} bytes",
        f"Total submission size int6+brotli: {code + artifact} bytes",
        f"final_int6_sliding_window_exact val_loss:{loss} val_bpb:{bpb}",
    ]


@pytest.fixture
def published(tmp_path):
    """A folder as the challenge's participants ship it: no digests, no artifact, no audit."""
    folder = tmp_path / "record"
    folder.mkdir()
    (folder / "train_gpt.py").write_text(SCRIPT)
    for seed in LOSSES:
        (folder / f"train_seed{seed}.log").write_text("\n".join(seed_lines(seed, len(SCRIPT), 15_000_000)) + "\n")
    write_submission(folder)
    (folder / "README.md").write_text("# val_bpb 1.1377\n")
    return folder


def write_submission(folder, **changes):
    results = {seed: {"val_loss": float(loss), "val_bpb": float(bpb)} for seed, (loss, bpb) in LOSSES.items()}
    fields = {"val_loss": 1.9209, "val_bpb": 1.1377, "bytes_total": 15_000_000 + len(SCRIPT), "seed_results": results}
    (folder / "submission.json").write_text(json.dumps({**fields, **changes}))


def failures(folder):
    return {check.name: check.evidence for check in verify_folder(folder, {}) if check.verdict == "FAIL"}


def replace_line(folder, name, old, new):
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_sound_published_folder_passes_as_far_as_it_goes(published):
    verdicts = {check.name: check.verdict for check in verify_folder(published, {})}

    assert verdicts == {
        "code size": "ok",
        "artifact size": "not stated",
        "total size": "ok",
        "digests": "not stated",
        "scores": "ok",
        "means": "ok",
        "statistics": "not stated",
        "implied bytes": "ok",
        "README": "ok",
        "counts": "not stated",
        "times": "not stated",
        "program": "ok",
    }


def test_a_score_that_is_not_its_logs_fails(published):
    write_submission(
        published, seed_results={"444": {"val_loss": 1.9171557, "val_bpb": 1.13541288}}, val_bpb=1.1354, val_loss=1.9172
    )
    replace_line(published, "README.md", "1.1377", "1.1354")

    assert failures(published) == {
        "scores": "seed 444: val_loss: 1.9171557 stated, 1.91946510 by the end of train_seed444.log"
    }


TOTAL = "Total submission size int6+brotli: 1500005"
SCORE = "val_loss:1.92242000 val_bpb:1.13853000"
NO = "exit('no') #ArgumentParser".ljust(len(SCRIPT) - 1) + "\n"
NO_PYTHON = "def f(:\n" + "#" * (len(SCRIPT) - 9) + "\n"
DISAGREEMENTS = [
    ("code size", "train_gpt.py", SCRIPT, SCRIPT + "#\n", "code: on disk 57, train_seed300.log 55"),
    (
        "total size",
        "train_seed444.log",
        TOTAL + "5",
        TOTAL + "4",
        "code + artifact 15,000,055, its log's total 15,000,054",
    ),
    ("total size", "submission.json", "15000055", "15000000", "largest: logs 15,000,055, submission.json 15,000,000"),
    ("means", "submission.json", "1.9209", "1.9208", "mean val_loss: 1.9208 stated, 1.92094255 by the seeds"),
    (
        "means",
        "submission.json",
        "{",
        '{"val_bpb_std": 9e-4, ',
        "std of val_bpb: 0.0009 stated, 0.00123689 by the seeds",
    ),
    ("README", "README.md", "1.1377", "1.2", "README.md nowhere states val_bpb 1.1377 of submission.json"),
    ("implied bytes", "train_seed300.log", SCORE, f"{SCORE}\nfinal_ttt_exact {SCORE[:-8]}03853000", "implies 151,"),
    ("program", "train_gpt.py", SCRIPT, NO, "train_gpt.py --help: no"),
    ("program", "train_gpt.py", SCRIPT, NO_PYTHON, "train_gpt.py does not compile: SyntaxError"),
]


@pytest.mark.parametrize(("check", "name", "old", "new", "evidence"), DISAGREEMENTS)
def test_each_disagreement_is_named_by_its_check(published, check, name, old, new, evidence):
    replace_line(published, name, old, new)
    found = failures(published)
    assert set(found) - {"scores"} == {check}
    assert evidence in found[check]


def test_a_deviation_at_fewer_digits_agrees(published):
    write_submission(published, val_bpb_std=0.0012)
    assert failures(published) == {}


def test_too_large_a_record_fails(published):
    for seed in LOSSES:
        lines = "\n".join(seed_lines(seed, len(SCRIPT), 16_000_000))
        (published / f"train_seed{seed}.log").write_text(lines)
    write_submission(published, bytes_total=16_000_000 + len(SCRIPT))
    assert failures(published) == {"total size": "16,000,055 bytes of 16,000,000"}


def test_digests_and_artifact_are_those_on_disk(published):
    artifact = published / "model_seed444.fwy"
    artifact.write_bytes(bytes(100))
    lines = [*seed_lines("444", len(SCRIPT), 100), f"sha256 {hashlib.sha256(bytes(100)).hexdigest()} {artifact.name}"]
    (published / "train_seed444.log").write_text("\n".join(lines))
    assert failures(published) == {}

    artifact.write_bytes(b"1" + bytes(99))
    digests = [hashlib.sha256(content).hexdigest()[:12] for content in (b"1" + bytes(99), bytes(100))]
    wrong = "model_seed444.fwy: the file {}, train_seed444.log {}".format(*digests)
    assert failures(published) == {"digests": wrong}
    artifact.write_bytes(bytes(99))
    assert failures(published)["artifact size"] == "seed 444: its log 100, the file 99"


def test_p_values_are_recomputed(published):
    baseline = {"name": "before", "val_losses": [1.93, 1.931, 1.932]}
    losses = [float(loss) for loss, _ in LOSSES.values()]
    p = stats.ttest_ind(baseline["val_losses"], losses, equal_var=False, alternative="greater").pvalue
    write_submission(published, comparison_baseline=baseline, p_value=p)
    assert failures(published) == {}
    write_submission(published, comparison_baseline=baseline, p_value=0.009)
    assert failures(published) == {"statistics": f"p_value: 0.009 stated, {p:.8g} by its losses"}


def test_implied_bytes_are_as_exact_as_the_digits():
    value, allowed = implied_bytes(Score(Decimal("1.91946510"), Decimal("1.13678077")), TARGETS)
    assert value == pytest.approx(text_bytes("1.91946510", "1.13678077"))
    assert 1 < allowed < 4


def test_numbers_agree_at_the_digits_of_the_shorter_one():
    assert equal_as_stated(Decimal("1.1377"), Decimal("1.13765539"))
    assert not equal_as_stated(Decimal("1.1376"), Decimal("1.13765539"))
    assert equal_as_stated(1, Decimal("1.0"))
    assert not equal_as_stated(Decimal("1.13765539"), Decimal("1.13765541"))


@pytest.mark.parametrize(
    ("content", "line"),
    [(None, "train_gpt.py: got 'no such file'"), ("{", "not valid JSON"), ("[1]", "expected an object")],
)
def test_what_is_no_record_ends_in_one_line(tmp_path, content, line):
    if content is not None:
        (tmp_path / "train_gpt.py").write_text("")
        (tmp_path / "submission.json").write_text(content)
    with pytest.raises(ValueError, match=line):
        read(tmp_path)


def test_the_command_prints_the_table_and_exits_1_on_a_failure(published, capsys):
    with pytest.raises(SystemExit) as ok:
        main(["verify", str(published)])
    assert ok.value.code == 0
    write_submission(published, val_bpb=1.2)
    with pytest.raises(SystemExit) as failed:
        main(["verify", str(published)])
    assert failed.value.code == 1
    assert "means          FAIL" in capsys.readouterr().out


HUGE = "9" * 400


@pytest.mark.parametrize("number", [HUGE, "1" * 5000, "1e400", "-1e999999999999999999999", "0e400"])
def test_a_number_beyond_anything_counted_disagrees(published, number):
    text = (published / "submission.json").read_text()
    (published / "submission.json").write_text(text.replace('"val_loss": 1.9209', f'"val_loss": {number}'))
    assert "mean val_loss" in failures(published)["means"]


@pytest.mark.parametrize(
    ("line", "check"),
    [
        (f"Code size: {HUGE}", "code size"),
        ("Code size: " + "1" * 5000, "code size"),
        (f"val_loader: tokens:{HUGE}", None),
        (f"final_x_exact val_loss:{HUGE}.0 val_bpb:1.0", "scores"),
        (f"final_x_exact val_loss:1.0 val_bpb:{HUGE}.0", "scores"),
    ],
)
def test_so_does_one_in_a_log(published, line, check):
    with open(published / "train_seed444.log", "a") as log:
        log.write(line + "\n")
    assert check is None or check in failures(published)


@pytest.mark.parametrize(("loss", "bpb"), [("0.0", "1.1"), ("1.9", "0.00"), ("0." + "0" * 400 + "1", "1.1")])
def test_a_score_of_zero_implies_nothing(published, loss, bpb):
    with open(published / "train_seed444.log", "a") as log:
        log.write(f"final_int6_sliding_window_exact val_loss:{loss} val_bpb:{bpb}\n")
    assert "expected scores above 0" in failures(published)["implied bytes"]


def test_names_that_no_file_system_takes_are_no_files(published):
    write_submission(published, seed_results={}, seeds=["a" * 3000])
    with open(published / "train_seed444.log", "a") as log:
        log.write(f"sha256 {'0' * 64} {'b' * 3000}\n")
    assert all(len(line) < 3000 for line in verify_table(verify_folder(published, {})).splitlines())


def test_long_lines_take_linear_time(published):
    with open(published / "train_seed444.log", "a") as log:
        log.write("final_x " + "val_loss:1.1 " * 200_000 + "\n" + "final_" * 200_000 + "\n" + "tokens:" * 200_000)
    started = time.monotonic()
    verify_folder(published, {})
    assert time.monotonic() - started < 5


def test_a_text_too_long_is_not_read(published):
    with open(published / "train_seed444.log", "r+b") as log:
        log.truncate(10**10)
    with pytest.raises(ValueError, match=r"train_seed444\.log: got '10,000,000,000 bytes', expected at most"):
        verify_folder(published, {})


def test_inputs_that_ended_in_tracebacks(shared, published):
    paths = sorted((shared / "hostile" / "parsers").glob("verify-*.txt"))
    assert paths
    for path in paths:
        statement, _, log = path.read_text().partition("\n#LOG\n")
        (published / "submission.json").write_text(statement)
        (published / "train_seed444.log").write_text(log)
        assert len(verify_folder(published, {})) == 12, path
