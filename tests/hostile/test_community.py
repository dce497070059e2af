"""The importer of community checkpoints: whatever they hold, it reads them or refuses in one short line."""

import ast
import random
import shutil

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.interop import LAYOUTS, load_community
from tests.hostile.mutations import damaged_bytes, damaged_tensor, damaged_value, reads_or_refuses
from tests.interop.test_interop_published import LAYOUT
from tests.published_parts import random_tensors


def attempt(folder, choose):
    """Damage tensors, arguments or bytes of a checkpoint and import it."""
    layout, suffix = choose.choice(list(LAYOUTS)), choose.choice((".pt", ".safetensors"))
    arguments, shapes_of, _ = LAYOUT[layout]
    tensors, path = random_tensors(shapes_of(arguments), 1), folder / f"weights{suffix}"
    kind = choose.randrange(3)
    if kind == 0:
        name = choose.choice(list(tensors))
        tensors[name] = damaged_tensor(tensors[name], choose)
    save = torch.save if suffix == ".pt" else safetensors.torch.save_file
    save(tensors, path)
    if kind == 2:
        path.write_bytes(damaged_bytes(path.read_bytes(), choose))
    arguments = damaged_value(arguments, choose) if kind == 1 else arguments
    reads_or_refuses(lambda: load_community(path, layout, arguments), ValueError)


def test_checkpoints_that_raised_something_else_are_one_line(shared, tmp_path):
    for path in (shared / "hostile/parsers").glob("community*"):
        content, _, arguments = path.read_bytes().partition(b"#CFG ")
        (tmp_path / "weights.pt").write_bytes(content)
        arguments = ast.literal_eval(arguments.decode())
        with pytest.raises(ValueError, match=r"^[^\n]{1,1000}$"):
            load_community(tmp_path / "weights.pt", "looped-unet", arguments)


@settings(max_examples=60)
@given(choose=st.randoms(use_true_random=False))
def test_a_community_checkpoint_reads_or_refuses(tmp_path_factory, choose):
    folder = tmp_path_factory.mktemp("case")
    attempt(folder, choose)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_ten_thousand_community_checkpoints(tmp_path):
    for case in range(10_000):
        attempt(tmp_path, random.Random(case))
