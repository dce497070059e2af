"""A log is read in whatever words people print: prefixes, stamps, digits, several runs, its own source."""

import time

import pytest

from pipeline.verification.reading import MOST_LOG_LINES, read_log
from pipeline.verification.runs import Run


def read(text: str) -> Run:
    (run,) = read_log("train.log", text.encode()).runs
    return run


SCORES = [
    ("final_int8_zlib_roundtrip_exact val_loss:2.07269931 val_bpb:1.22436570", "artifact"),
    ("final_ttt_sliding val_loss:2.9370 val_bpb:1.1372 eval_time:5473600ms", "artifact"),
    ("quantized_ttt_phased val_loss:2.32239991 val_bpb:1.06124613 eval_time:455128ms", "artifact"),
    ("legal_ttt_exact val_loss:2.79517119 val_bpb:1.08209788 eval_time:293430ms", "artifact"),
    ("ttt_sliding:done val_loss=2.795171 val_bpb=1.082098 elapsed=293.2s", "artifact"),
    ("1776144156.999 quantized_ttt_phased val_loss: 2.76951521 val_bpb: 1.07216564", "artifact"),
    ("[2026-04-13 12:00:00] final val_bpb:1.07 (val_loss:2.76)", "artifact"),
    ("diagnostic quantized val_loss:2.36692321 val_bpb:1.08152131", "artifact"),
    ("diagnostic pre-quantization post-ema val_loss:2.34 val_bpb:1.07", "float"),
    ("pre_quant val_loss:3.93756411 val_bpb:4.54878551", "float"),
    ("step:13400/20000 val_loss:2.0718 val_bpb:1.2239 train_time:583458ms", "training"),
    ("ttt_chunk [12/1238] val_loss:2.0718 val_bpb:1.2239", "training"),
    ("legal_ttt_exact chunks 1238/1238 val_loss:2.79 val_bpb:1.08", "artifact"),
    ("legal_ttt_exact step:5082/20000 val_loss:2.79 val_bpb:1.08", "artifact"),
    ("int6 + fp16 embed val_loss:2.79 val_bpb:1.08", "artifact"),
    ("post_ema val_loss:2.79 val_bpb:1.08", "float"),
    ("FINAL VAL_LOSS: 2.79 VAL_BPB: 1.08", "artifact"),
    ('{"name": "final", "val_loss": 2.79, "val_bpb": 1.08}', "artifact"),
]


@pytest.mark.parametrize(("line", "weights"), SCORES)
def test_any_line_with_loss_and_bpb_is_a_score_of_something(line, weights):
    (score,) = read(line).lines
    assert score.weights == weights
    assert str(score.score.val_bpb) in line
    assert str(score.score.val_loss) in line
    assert not score.name.startswith(("1776", "["))


@pytest.mark.parametrize(
    ("line", "kind", "label", "value"),
    [
        ("Code size: 47642 bytes", "code bytes", "", 47642),
        ("Code size (compressed): 31,999 bytes", "code bytes", "compressed", 31999),
        ("1776143356.801 Code size (uncompressed): 139831 bytes", "code bytes", "uncompressed", 139831),
        ("Serialized model: 67224983 bytes", "model bytes", "", 67224983),
        ("Serialized model int8+zlib: 15815847 bytes (payload:17178912)", "model bytes", "int8+zlib", 15815847),
        ("Total submission size quantized+brotli: 15991018 bytes", "total bytes", "quantized+brotli", 15991018),
        ("val_loader:shards pattern=data/fineweb_val_*.bin tokens:62021632", "targets", "", 62021632),
        ("val_tokens: 40540160", "tokens", "", 40540160),
        ("  model_params:  29415508", "params", "", 29415508),
        ("stopping_early: wallclock_cap train_time: 588035ms step: 5082/20000", "train ms", "", 588035),
        ("stopping_early: wallclock_cap train_time: 588035ms step: 5082/20000", "steps", "", 5082),
        ("step:4000/20000 train_loss:2.1 train_time:9.8m step_avg:149.79ms", "train ms", "", 588000),
        ("step:4000/20000 train_loss:2.1 train_time:9.8m step_avg:149.79ms", "step ms", "", "149.79"),
        ("total_eval_time:455.1s", "eval ms", "in all", 455100),
        ("Compressed model: 15974299 bytes", "model bytes", "Compressed", 15974299),
    ],
)
def test_figures_are_read_with_their_unit_and_label(line, kind, label, value):
    (figure,) = read(f"\n{line}\n").all(kind)
    assert (float(figure.value), figure.label, figure.line) == (float(value), label, 2)


def test_a_piped_line_states_three_sizes():
    run = read("gptq_int6_brotli: 14,934,784 bytes | code: 90,756 | total: 15,025,540 (15.03MB)")
    assert [(kind, run.last(kind)) for kind in ("model bytes", "code bytes", "total bytes")] == [
        ("model bytes", 14934784),
        ("code bytes", 90756),
        ("total bytes", 15025540),
    ]


@pytest.mark.parametrize("line", ["Code size: 0.05 MB", "Serialized model int6: 15.99 MB", "ttt step:12/38 lr:0.1"])
def test_what_is_no_count_is_not_read(line):
    assert read(line).figures == {}


def test_a_bpb_alone_is_a_score():
    (score,) = read("final_sliding bpb: 1.0821").lines
    assert (score.score.val_loss, str(score.score.val_bpb)) == (None, "1.0821")


def test_a_seed_of_something_else_begins_no_run():
    log = read_log("train.log", b"seed:1\nfinal val_loss:2.0 val_bpb:1.0\ncalibration batches=64 seed=7\n")
    assert [run.seed.value for run in log.runs] == [1]


def test_of_two_lines_with_one_name_the_later_counts():
    run = read("Code size: 1 bytes\nCode size: 2 bytes\na val_loss:2.0 val_bpb:1.0\na val_loss:3.0 val_bpb:2.0\n")
    assert [figure.value for figure in run.latest("code bytes")] == [2]
    assert [(line.name, str(line.score.val_bpb)) for line in run.last_scores] == [("a", "2.0")]


RUN = "train_loader: {0}\nseed: {0}\nmodel_params:{0}00\nfinal val_loss:{0}.5 val_bpb:{0}.25\ntotal_eval_time:{0}.0s\n"


def test_a_log_of_two_seeds_holds_two_runs():
    runs = read_log("train.log", (RUN.format(1) + RUN.format(2)).encode()).runs
    assert [run.seed.value for run in runs] == [1, 2]
    assert [[str(line.score.val_bpb) for line in run.lines] for run in runs] == [["1.25"], ["2.25"]]
    assert [run.last("params") for run in runs] == [100, 200]


def test_a_run_that_is_logged_again_is_one_run():
    (run,) = read_log("train.log", (RUN.format(1) * 3).encode()).runs
    assert run.last_scores[-1].line == 14


@pytest.mark.parametrize(
    "line", ["seed:1337", "  seed: 1337", "1776142360.541   seed: 1337", "lr:0.1 seed=1337 x:2", "'seed': 1337"]
)
def test_a_seed_is_read(line):
    assert read(line).seed.value == 1337


@pytest.mark.parametrize("line", ["data_seed: 3", 'seed = int(os.environ.get("SEED", 1337))', "args.seed: 7"])
def test_what_is_no_seed_is_not(line):
    assert read(line).seed is None


SOURCE = "import torch\nseed = 3\ndef f():\n    print('final val_loss:9.0 val_bpb:9.0')\nseed: int = 7\n"


@pytest.mark.parametrize("before", ["", f"{'=' * 100}\nHyperparameters:\nlr: 1\n{'=' * 100}\n"])
def test_printed_source_states_nothing(before):
    log = read_log("train.log", f"{before}{SOURCE}{'=' * 100}\nfinal val_loss:2.0 val_bpb:1.0\n".encode())
    assert [str(line.score.val_bpb) for run in log.runs for line in run.lines] == ["1.0"]
    assert len(log.sources) == 1


HOSTILE = [
    "final_x " + "val_loss:1.1 " * 200_000,
    "final_" * 300_000,
    "val_loader:" * 100_000 + "tokens:",
    "Code size " * 200_000,
    "seed" + " " * 2_000_000 + ":1",
    "x" * 5_000_000 + " | code: 1 | total: ",
    "step:1 val_bpb" + ":" * 1_000_000,
    "[2026 " * 500_000,
    "1:2 " * 1_000_000 + "val_loss:1.0 val_bpb:1.0",
    "\n".join(["step:1/2 val_loss:1.0 val_bpb:1.0 seed:1"] * (MOST_LOG_LINES - 1)),
    "\n".join(f"a{number} val_loss:1.0 val_bpb:1.0" for number in range(MOST_LOG_LINES - 1)),
    "\n".join(f"Code size: {number}" for number in range(MOST_LOG_LINES - 1)),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_time_is_linear_in_whatever_a_log_holds(text):
    started = time.monotonic()
    read_log("train.log", text.encode())
    assert time.monotonic() - started < 5


def test_too_many_runs_are_no_log():
    with pytest.raises(ValueError, match=r"train.log: got runs of more than 64 seeds"):
        read_log("train.log", "\n".join(f"seed:{number}" for number in range(100)).encode())


def test_too_many_lines_are_no_log():
    with pytest.raises(ValueError, match=f"train.log: got more than {MOST_LOG_LINES:,} lines"):
        read_log("train.log", b"\n" * (MOST_LOG_LINES + 1))
