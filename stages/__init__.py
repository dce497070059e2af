"""Fairway's commands: verbs, one module each; thin shells around `pipeline`."""
