"""What only a GPU can tell, in nine minutes: `python -m benchmarks.gpu_check --out DIR`.

One idea: a machine with a GPU is lent for minutes and may be taken away at any moment, so the check is a list of parts,
the most certain knowledge first. Every part is a process of its own with a limit of its own: one that hangs, dies or
breaks the device takes nothing from the others. It hands over every finding the moment it has it, and the result file
holds them all at any time. `parts.py` is the list, `numbers.py` asks whether a GPU computes what the CPU computes,
`speed.py` what it costs.
"""
