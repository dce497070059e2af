"""Text, or published shards, to a tokenizer and shards of tokens: `prepare.prepare`."""
