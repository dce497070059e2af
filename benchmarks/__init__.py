"""Measurements: `python -m benchmarks.<name>` prints a table and writes benchmarks/results/<name>.json."""

import os

from pipeline.launching.openmp import wait_briefly

wait_briefly(os.environ)
