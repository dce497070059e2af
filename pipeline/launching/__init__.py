"""Where and beside whom a run computes: `processes`, signals, locks, walls. No result of a run depends on it."""
