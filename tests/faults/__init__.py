"""Postgres, its disk and its power fail under a house that is at work."""
