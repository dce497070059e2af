"""What every room stands on: settings (`config.load_params`), files, the table of artifacts, checks, ranks."""
