"""Fixtures shared by all tests."""

import hashlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sentencepiece
from filelock import FileLock
from hypothesis import settings

from pipeline.base.files import write_bytes
from pipeline.corpus.tokenizer_training import train_tokenizer
from pipeline.data.tokenizer import load_tokenizer
from pipeline.launching.openmp import wait_briefly
from tests.preloaded import preloaded_python

wait_briefly(os.environ)  # before any test loads torch
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker per core

# A busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPO = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the first worker begin with the pipeline that many tests share, and the others come to these tests late."""
    sharing = [item for item in items if "finished" in getattr(item, "fixturenames", ())]
    alone = [item for item in items if item not in set(sharing)]
    late = 3 * len(items) // 4 - len(sharing[:1])
    items[:] = [*sharing[:1], *alone[:late], *sharing[1:], *alone[late:]]


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this run share: for what is made once, by `made_once`."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(path: Path, make: Callable[[], None]) -> Path:
    """Return `path` after `make` has made it; of several workers that ask, one makes and the others wait."""
    done = path.with_name(f"{path.name}.made")
    with FileLock(f"{done}.lock"):
        if not done.exists():
            make()
            done.touch()
    return path


@pytest.fixture(scope="session")
def programs() -> Iterator[str]:
    """Return folders of programs for projects: a preloaded Python, then this environment's, then the machine's."""
    with preloaded_python() as first:
        yield os.pathsep.join([str(first), str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture(scope="session")
def shipped(common: Path) -> Callable[[str], bytes]:
    """Return `shipped_program(source, readable=False)`, analysed once per source and run."""

    def program(source: str) -> bytes:
        from pipeline.record.ship import shipped_program  # loads much, which few tests need

        path = common / f"{hashlib.sha256(source.encode()).hexdigest()}.py"
        return made_once(path, lambda: write_bytes(path, shipped_program(source, readable=False))).read_bytes()

    return program


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference outputs beside the checkout; skip when it is absent."""
    folder = REPO.parent / "shared"
    if not folder.is_dir():
        pytest.skip("reference outputs absent: place the folder `shared` beside the checkout to run this test")
    return folder


@pytest.fixture(scope="session")
def toy_documents() -> list[str]:
    """Return 400 deterministic documents of made-up words, digits, accents and emoji."""
    rng = random.Random(7)
    syllables = ["ka", "lo", "mi", "nu", "re", "st", "qu", "\u00e9t", "\u4e2d", "42"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))).capitalize() + "." for _ in range(400)]
    return [f"{text} \U0001f600\u200d" if index % 9 == 0 else text for index, text in enumerate(texts)]


@pytest.fixture(scope="session")
def toy_model(toy_documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a tokenizer of 512 pieces trained on the toy documents."""
    path = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    path.write_bytes(train_tokenizer(toy_documents, 512))
    return path


@pytest.fixture(scope="session")
def toy_processor(toy_model: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the toy tokenizer, loaded."""
    return load_tokenizer(toy_model)
