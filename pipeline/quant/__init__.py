"""Quantization: calibration moments, GPTQ, and the search for the artifact that just fits."""
