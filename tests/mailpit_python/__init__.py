"""A test suite as people write them for Mailpit, and what it needs."""
