"""One program and its folder, proven: `build.record_source`, `record`, `prove`, `verify`."""
