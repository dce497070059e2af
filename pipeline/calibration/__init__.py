"""What quantization must know of a model's inputs and gradients: `calibrate.calibrate`."""
