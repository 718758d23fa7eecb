"""The documentation is true: its links lead somewhere, its blocks run, and what there is stands in it."""
