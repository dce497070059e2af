"""What the network cannot carry, counted: `mixing.mixed_nats`, with settings that `fitting.fit_mixture` finds."""
