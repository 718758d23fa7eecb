"""The Python client and the pytest plugin."""
