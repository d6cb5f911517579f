"""Everything that talks to Ray; nothing outside this package imports it."""
