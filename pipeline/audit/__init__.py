"""The audit: an evaluator seen from outside, from token streams and ledgers alone."""
