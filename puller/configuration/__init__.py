"""The configuration: a TOML file with repositories, defaults and jobs, as checked, frozen values."""
