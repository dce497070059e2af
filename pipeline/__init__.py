"""Fairway's library: everything a stage or a record program calls. Nouns live here, verbs in `stages`."""
