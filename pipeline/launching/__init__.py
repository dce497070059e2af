"""Where and beside whom a run computes: `processes`, devices, signals, locks, walls. No result depends on it."""
