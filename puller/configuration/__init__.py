"""The configuration: a TOML file with repositories, defaults and jobs, read into checked, frozen values."""
