"""A folder as the challenge's participants ship it: no digests, no artifact, no audit."""

import json
from pathlib import Path

import pytest

SCRIPT = "import argparse\nargparse.ArgumentParser().parse_args()\n"
LOSSES = {"444": ("1.91946510", "1.13678077"), "300": ("1.92242000", "1.13853000")}
TARGETS = 62_021_632
"""The two lines' quotients of loss and bpb imply 151,08x,xxx bytes, as on the challenge's validation set."""


def seed_lines(seed: str, code: int, artifact: int) -> list[str]:
    loss, bpb = LOSSES[seed]
    return [
        f"val_loader:shards pattern=/data/fineweb_val_*.bin tokens:{TARGETS}",
        "step:4000/4000 val_loss:1.9465 val_bpb:1.1528",
        f"Code size: {code} bytes",
        f"Serialized model int6+brotli: {artifact} bytes",
        f"Total submission size int6+brotli: {code + artifact} bytes",
        f"final_int6_sliding_window_exact val_loss:{loss} val_bpb:{bpb}",
    ]


def write_submission(folder: Path, **changes: object) -> None:
    results = {seed: {"val_loss": float(loss), "val_bpb": float(bpb)} for seed, (loss, bpb) in LOSSES.items()}
    fields = {"val_loss": 1.9209, "val_bpb": 1.1377, "bytes_total": 15_000_000 + len(SCRIPT), "seed_results": results}
    (folder / "submission.json").write_text(json.dumps({**fields, **changes}))


def replace_line(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder that agrees with itself."""
    folder = tmp_path / "record"
    folder.mkdir()
    (folder / "train_gpt.py").write_text(SCRIPT)
    for seed in LOSSES:
        (folder / f"train_seed{seed}.log").write_text("\n".join(seed_lines(seed, len(SCRIPT), 15_000_000)) + "\n")
    write_submission(folder)
    (folder / "README.md").write_text("# val_bpb 1.1377\n")
    return folder
