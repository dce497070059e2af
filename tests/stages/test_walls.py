"""Real stages that try what they must not: one line, exit 1, and nothing written."""

import pytest

from pipeline.base.artifacts import ROOT

VAL = "artifacts/data/val/val_000000.bin"
TRAIN = "artifacts/data/train/train_000000.bin"
ATTEMPTS = {
    "train": (["--seed", "1"], "    listed = listed_shards", VAL),
    "calibrate": (["--seed", "1"], "    model = load_checkpoint(checkpoint)", VAL),
    "quantize": (["--seed", "1"], "    model = load_checkpoint(checkpoint)", VAL),
    "evaluate": (["--seed", "1", "--item", "blocks"], "    table, manifest = load_byte_table", TRAIN),
}


@pytest.mark.parametrize("stage", ATTEMPTS)
@pytest.mark.parametrize("act", ["open", "connect"])
def test_a_stage_that_crosses_its_walls_ends_in_one_line(project, stage: str, act: str) -> None:
    arguments, before, forbidden = ATTEMPTS[stage]
    attempt = f"    open('{forbidden}')\n"
    if act == "connect":
        attempt = "    import socket; socket.create_connection(('192.0.2.1', 80), 0.1)\n"
    path = project.root / "stages" / f"{stage}.py"
    source = path.read_text()
    assert source.count(before) == 1
    path.write_text(source.replace(before, attempt + before))
    done = project.run("fairway", stage, *arguments, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    told = f"may not open {forbidden}, which is sealed" if act == "open" else "expected no network"
    assert last.startswith(f"fairway: error: {stage}: may not")
    assert told in last


def test_the_artifact_is_the_same_when_val_is_noise(project) -> None:
    root = project.root / ROOT
    before = (root / "seeds/1/quantize/model.fwy").read_bytes()
    shard = root / "data/val/val_000000.bin"
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content[:1024] + bytes(reversed(content[1024:])))
    for stage in ("train", "calibrate", "quantize"):
        for path in (root / "seeds/1" / stage).iterdir():
            path.unlink()
        project.run("fairway", stage, "--seed", "1")
    assert (root / "seeds/1/quantize/model.fwy").read_bytes() == before
