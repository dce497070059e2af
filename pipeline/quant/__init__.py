"""A float model and its statistics to codes whose file just fits: `fit.fit_to_budget`."""
