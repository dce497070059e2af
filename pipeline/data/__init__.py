"""Text to tokens: corpora, tokenizer, shards, byte counts, batches."""
