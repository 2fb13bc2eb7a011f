"""Jobs of the configuration: many domains, commands before and after, prune and check."""
