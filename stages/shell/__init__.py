"""What all commands share: options, header, progress, summary, ranks. No result depends on it."""
