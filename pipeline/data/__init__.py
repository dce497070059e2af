"""Shards, tokenizers and manifests as later stages read them: `shards.open_shards`, `batches`, `byte_count`."""
