"""The loop from shards to a float checkpoint, within its budget: `run.train_from_shards`."""
