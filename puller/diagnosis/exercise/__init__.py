"""Exercise a store: try under load what puller relies on, and measure it."""
