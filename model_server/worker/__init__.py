"""The worker program: one process, one copy of one model version, a plain blocking loop."""
