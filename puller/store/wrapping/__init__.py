"""Stores around another store: they retry, limit the rate, or look before they put."""
