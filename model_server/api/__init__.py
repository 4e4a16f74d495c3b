"""Adapters: every protocol turns its requests into calls of `serving` and the outcome into its answers."""
