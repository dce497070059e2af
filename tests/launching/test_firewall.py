"""The walls of a stage, tried: every way to a sealed file that Python offers, and to other machines."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.launching.firewall import NETWORK_STAGES, SEALED, FirewallError, Walls

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with one val shard, one train shard, links to the val shard and a shard listed from outside."""
    for split in ("train", "val"):
        folder = tmp_path / "artifacts/data" / split
        folder.mkdir(parents=True)
        (folder / f"{split}_000000.bin").write_bytes(b"tokens")
    scores = tmp_path / "artifacts/seeds/7/evaluate"
    scores.mkdir(parents=True)
    (scores / "ledger-blocks.npz").write_bytes(b"nats")
    val = tmp_path / "artifacts/data/val"
    (tmp_path / "elsewhere.bin").write_bytes(b"tokens")
    (val / "val_shards.txt").write_text(f"{tmp_path}/elsewhere.bin\n")
    (tmp_path / "hard.bin").hardlink_to(val / "val_000000.bin")
    (tmp_path / "soft.bin").symlink_to(val / "val_000000.bin")
    (tmp_path / "alias").symlink_to(val.parent)
    (tmp_path / ".cache/hub").mkdir(parents=True)
    for name in ("corpus.whl", "hub/train.bin", "hub/val.bin", "hub/other.bin"):
        (tmp_path / ".cache" / name).write_bytes(b"text")
    for split in ("train", "val"):
        listing = tmp_path / f"artifacts/data/{split}/{split}_shards.txt"
        with open(listing, "a") as file:
            file.write(f"../../../.cache/hub/{split}.bin\n")
    return tmp_path


def attempt(checkout: Path, stage: str, statement: str) -> str:
    """Run a statement in a process inside the walls of `stage`; return `read`, or the error it ended in."""
    program = f"""
        from pipeline.launching.firewall import FirewallError, raise_walls
        raise_walls({stage!r})
        try:
            {statement}
            print("read")
        except FirewallError as error:
            print(error)
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, cwd=checkout, env={"PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


VAL = "artifacts/data/val/val_000000.bin"
READS = {
    "open": f"open('{VAL}')",
    "bytes": f"open(b'{VAL}')",
    "os": f"import os; os.open('{VAL}', os.O_RDONLY)",
    "pathlib": f"import pathlib; pathlib.Path('{VAL}').read_bytes()",
    "dots": "open('artifacts/data/train/../val/val_000000.bin')",
    "memmap": f"import numpy; numpy.memmap('{VAL}', mode='r')",
    "fromfile": f"import numpy; numpy.fromfile('{VAL}')",
    "tensors": f"import pathlib, pipeline.base.artifacts as a; a.read_tensors(pathlib.Path('{VAL}'))",
    "hard link": "open('hard.bin')",
    "soft link": "open('soft.bin')",
    "new link": f"import os; os.link('{VAL}', 'new.bin')",
    "listed elsewhere": "open('elsewhere.bin')",
    "child with an option": f"import subprocess; subprocess.run(['git', '--file={VAL}'])",
    "child": f"import subprocess; subprocess.run(['cat', '{VAL}'])",
    "child in the cache": "import subprocess; subprocess.run('true', cwd='.cache')",
    "child with the cache": "import subprocess; subprocess.run(['true', '-I.cache/hub'])",
    "shell with the cache": "import subprocess; subprocess.run('cat \"$PWD\";cat .cache/hub/*', shell=True)",
    "scores": "open('artifacts/seeds/7/evaluate/ledger-blocks.npz')",
    "redirection from the cache": "import subprocess; subprocess.run('true <.cache/corpus.whl', shell=True)",
    "braces of the cache": "import os; os.system('cat {.cache/corpus.whl,x}')",
    "corpus": "open('.cache/corpus.whl')",
    "folder by another name": "open('alias/val/val_000000.bin')",
    "open folder": (
        "import os; os.open('val/val_000000.bin', os.O_RDONLY, dir_fd=os.open('artifacts/data', os.O_RDONLY))"
    ),
    "open folder and dots": (
        "import os; os.mkdir('x'); os.open('../artifacts/data/val/val_000000.bin', os.O_RDONLY, "
        "dir_fd=os.open('x', os.O_RDONLY))"
    ),
    "link from an open folder": (
        "import os; os.link('val_000000.bin', 'new.bin', src_dir_fd=os.open('artifacts/data/val', os.O_RDONLY))"
    ),
    "another working directory": "import os; os.chdir('artifacts/data'); open('val/val_000000.bin')",
    "its folder renamed": "import os; os.rename('artifacts/data', 'x'); open('x/val/val_000000.bin')",
    "child with a word of its own": "import subprocess; subprocess.run(['git', 'x', 'val/a'], cwd='artifacts/data')",
    "child that begins there": "import subprocess; subprocess.run(['ls'], cwd='artifacts/data/val')",
    "child by another call": f"import os; os.system('cat {VAL}')",
    "child by posix_spawn": f"import os; os.posix_spawn('/bin/cat', ['cat', '{VAL}'], {{}})",
    "scores of a later seed": (
        "import os; os.makedirs('artifacts/seeds/8/evaluate'); os.mkfifo('artifacts/seeds/8/evaluate/ledger.npz'); "
        "os.open('artifacts/seeds/8/evaluate/ledger.npz', os.O_RDONLY | os.O_NONBLOCK)"
    ),
    "a later link": (
        "import os; os.mkfifo('later'); os.symlink('../../../later', 'artifacts/data/val/val_1.bin'); "
        "os.open('later', os.O_RDONLY | os.O_NONBLOCK)"
    ),
}


@pytest.mark.parametrize("name", READS)
def test_no_way_to_validation_text_is_open_in_quantize(checkout: Path, name: str) -> None:
    assert "sealed" in attempt(checkout, "quantize", READS[name])


@pytest.mark.parametrize("stage", ["train", "calibrate", "quantize", "import_checkpoint"])
def test_a_stage_that_makes_a_model_reads_train_and_not_val(checkout: Path, stage: str) -> None:
    assert attempt(checkout, stage, READS["open"]).startswith(f"{stage}: may not open {VAL}, which is sealed")
    assert attempt(checkout, stage, READS["open"].replace("val", "train")) == "read"
    inside = "import os; os.open('train_000000.bin', os.O_RDONLY, dir_fd=os.open('artifacts/data/train', os.O_RDONLY))"
    assert attempt(checkout, stage, inside) == "read"


def test_evaluate_reads_val_and_not_train(checkout: Path) -> None:
    assert attempt(checkout, "evaluate", READS["memmap"]) == "read"
    assert "sealed" in attempt(checkout, "evaluate", READS["memmap"].replace("val", "train"))
    assert "sealed" in attempt(checkout, "evaluate", READS["corpus"])


def test_a_shard_written_after_the_walls_rose_is_sealed(checkout: Path, monkeypatch) -> None:
    monkeypatch.chdir(checkout)
    walls = Walls("train", SEALED["train"], network=False)
    (checkout / "artifacts/data/val/val_1.bin").write_bytes(b"tokens")
    (checkout / "x.bin").hardlink_to("artifacts/data/val/val_1.bin")
    for path in ("artifacts/data/val/val_1.bin", "x.bin"):
        with pytest.raises(FirewallError, match="sealed"):
            walls.check("open", (path, "r", 0))


@pytest.mark.parametrize(
    "statement",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), 0.1)",
        "import urllib.request; urllib.request.urlopen('http://example.invalid/')",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
        "import socket; socket.create_server(('0.0.0.0', 0))",
        "import socket; socket.getaddrinfo('127.evil.example', 80)",
        "import socket; socket.getaddrinfo(b'localhost.example', 80)",
        "import socket; socket.gethostbyaddr('192.0.2.1')",
        "import socket; socket.getnameinfo(('192.0.2.1', 80), 0)",
    ],
)
def test_no_stage_but_prepare_leaves_this_machine(checkout: Path, statement: str) -> None:
    for stage in ("train", "evaluate", "package"):
        assert "expected no network" in attempt(checkout, stage, statement)
    assert NETWORK_STAGES == ("prepare",)


def test_loopback_stays_open_for_the_ranks_of_a_run(checkout: Path) -> None:
    statement = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); "
        "socket.getaddrinfo('localhost', 80); socket.getaddrinfo(None, 80); socket.socketpair(); "
        "socket.create_server(('::1', 0), family=socket.AF_INET6) if socket.has_ipv6 else None"
    )
    assert attempt(checkout, "train", statement) == "read"


@pytest.mark.parametrize("stage", SEALED)
def test_published_shards_in_the_cache_are_open_to_the_stage_of_their_split_only(checkout: Path, stage: str) -> None:
    own, sealed = ("val", "train") if stage == "evaluate" else ("train", "val")
    assert attempt(checkout, stage, f"open('.cache/hub/{own}.bin')") == "read"
    for name in (f"hub/{sealed}.bin", "hub/other.bin", "corpus.whl"):
        assert "sealed" in attempt(checkout, stage, f"open('.cache/{name}')")


def test_a_listing_opens_nothing_that_another_one_seals(checkout: Path) -> None:
    with open(checkout / "artifacts/data/train/train_shards.txt", "a") as file:
        file.write("../val/val_000000.bin\n../../../elsewhere.bin\n../../../.cache/hub/val.bin\n")
    for name in (VAL, "elsewhere.bin", ".cache/hub/val.bin"):
        assert "sealed" in attempt(checkout, "train", f"open('{name}')")


@pytest.mark.parametrize(
    "statement",
    [
        "import platform; platform.architecture()",
        "import subprocess; subprocess.run(['true', '-I/home/me/git'])",
        "import subprocess; subprocess.run('true', shell=True)",
        "import ctypes.util; ctypes.util.find_library('c')",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
@pytest.mark.parametrize("stage", SEALED)
def test_a_toolchain_may_start_what_it_needs(checkout: Path, stage: str, statement: str) -> None:
    """What Triton, inductor, ctypes and Python 3.13's subprocess do."""
    assert attempt(checkout, stage, statement) == "read"


WORK = "/home/me/.cache/inductor/5u/c5ujs3kvmvyoik"
PACKAGES = "/home/me/.cache/uv/environments-v2/lib/python3.11/site-packages"
COMPILERS = {
    "architecture": (["file", "-b", "/usr/bin/python3.11"], None),
    "triton: launcher": (
        ["/usr/bin/gcc", "/tmp/tmp2us/launcher.c", "-O3", "-shared", "-o", "/tmp/tmp2us/launcher.so"]
        + ["-l:libcuda.so.1", f"-L{PACKAGES}/triton/lib", f"-I{PACKAGES}/triton/include", "-I/tmp/tmp2us"],
        None,
    ),
    "triton: assembler": ([f"{PACKAGES}/triton/backends/nvidia/bin/ptxas", "--version"], None),
    "triton: assembler on a kernel": (
        ["ptxas", "-lineinfo", "-v", "--gpu-name=sm_90a", f"{WORK}.ptx", "-o", WORK],
        None,
    ),
    "inductor: version": (["nvcc", "--version"], None),
    "inductor: workers": (
        ["python", f"{PACKAGES}/torch/_inductor/compile_worker/__main__.py", "--kind=fork", "--workers=8"]
        + ["--pickler=torch._inductor.compile_worker.subproc_pool.SubprocPickler", "--torch-key=VhXO0YP8EH9uq="],
        None,
    ),
    "inductor: C++": (
        ["g++", f"{WORK}.main.cpp", "-D", "CPU_CAPABILITY_AVX512", "-fopenmp", f"-I{PACKAGES}/torch/include"]
        + ["-include", f"{WORK}.h", "-o", f"{WORK}.main.so", "-ltorch", f"-L{PACKAGES}/torch/lib"],
        f"{WORK}.main_CxxBuild",
    ),
    "inductor: digest": (["openssl", "sha512", f"{WORK}.i"], None),
    "torch: libraries": (["/sbin/ldconfig", "-p"], None),
}
"""What torch, inductor and Triton start when they compile with their caches in a home's .cache: words, folder."""


@pytest.mark.parametrize("stage", SEALED)
@pytest.mark.parametrize("call", COMPILERS)
def test_compilers_start_their_programs(checkout: Path, monkeypatch, stage: str, call: str) -> None:
    monkeypatch.chdir(checkout)
    walls, (words, folder) = Walls(stage, SEALED[stage], network=False), COMPILERS[call]
    walls.check("subprocess.Popen", (words[0], words, folder, {"PATH": "/usr/bin"}))
    walls.check("os.posix_spawn", (words[0].encode(), [word.encode() for word in words], {}))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "calibrate", "evaluate"])
def test_a_function_compiles_inside_the_walls(checkout: Path, tmp_path: Path, stage: str) -> None:
    """From nothing: no cache of a compiler, and one that lies in a home's .cache."""
    program = f"""
        import os
        os.environ.update(TORCHINDUCTOR_CACHE_DIR={str(tmp_path / "home/.cache/inductor")!r})
        import torch
        from pipeline.launching.firewall import raise_walls
        raise_walls({stage!r})
        x = torch.ones(3, requires_grad=True)
        torch.compile(lambda x: (x * x).sum(), fullgraph=True)(x).backward()
        assert x.grad.tolist() == [2.0, 2.0, 2.0]
        """
    environment = {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("home/.cache/inductor/**/*.so"))


@pytest.mark.parametrize(
    "words",
    [
        ["git", "-c", "alias.x=!cat artifacts/data/v*l/*", "x"],
        ["git", "grep", "--no-index", "x"],
        ["git", "--version"],
        ["/usr/bin/git", "log"],
        ["sh", "-c", "git grep --no-index x"],
    ],
)
def test_git_is_asked_for_the_commit_and_nothing_else(checkout: Path, words: list[str]) -> None:
    for stage in SEALED:
        assert "expected git asked for the commit only" in attempt(
            checkout, stage, f"import subprocess; subprocess.run({words})"
        )
    asking = (
        f"from pathlib import Path; from pipeline.base.artifacts import git_commit; "
        f"assert git_commit(Path({str(REPO)!r}))"
    )
    assert attempt(checkout, "train", asking) == "read"


def test_walls_without_sealed_folders_let_files_pass(checkout: Path, monkeypatch) -> None:
    monkeypatch.chdir(checkout)
    assert not Walls("package", SEALED.get("package", ()), network=False).is_sealed(VAL)
