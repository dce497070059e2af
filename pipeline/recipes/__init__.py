"""Complete configurations of published systems: reading, comparing, writing them (`recipes`)."""
