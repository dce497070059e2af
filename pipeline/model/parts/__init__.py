"""One optional idea of an architecture per module: a network has those that its configuration names."""
