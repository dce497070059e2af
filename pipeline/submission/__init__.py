"""The record: one-file program, folder, proof."""
