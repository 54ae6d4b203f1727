"""Recorded sessions become patterns."""
