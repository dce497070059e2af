"""One part of the check as a process: `python -m benchmarks.gpu_check.part NAME DEVICE SIZE`.

Waits for a line on its standard input, then prints a JSON object {name: finding} per finding. What libraries print goes
to standard error instead, so that nothing comes between.

Checked by: tests/benchmarks/test_gpu_check.py
"""

import json
import os
import sys

import torch

from benchmarks.gpu_check.parts import PARTS


def main() -> None:
    """Run the part that the command line names; an error is a finding that did not pass."""
    findings = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, device_type, size = sys.argv[1:]
    part = next(part for part in PARTS if part.name == name)

    def tell(title: str, finding: object) -> None:
        print(json.dumps({title: finding}), file=findings, flush=True)

    load = part.load()
    sys.stdin.readline()
    if device_type == "cuda" and not torch.cuda.is_available():
        tell("device", {"passed": False, "error": "no usable CUDA device; try --device cpu --size small"})
        return
    device = torch.device("cuda", 0) if device_type == "cuda" else torch.device("cpu")
    try:
        for title, finding in load(device, size):
            tell(title, finding)
    except Exception as error:
        tell("error", {"passed": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]})
        raise


if __name__ == "__main__":
    main()
