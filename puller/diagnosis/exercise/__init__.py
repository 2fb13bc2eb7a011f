"""Exercise a store: test what puller relies on under load, and measure it."""
