"""What quantization costs, rung by rung, on real checkpoints: `python -m benchmarks.quantization` (`__main__.py`)."""
