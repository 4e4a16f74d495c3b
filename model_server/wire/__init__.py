"""What frontend and worker say to each other. Standard library only; no I/O. See `messages` for the vocabulary."""
