"""What a run would take before anything runs: seconds by machine, bits per weight. No result depends on it.

Enter at `table`.
"""
