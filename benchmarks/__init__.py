"""Load, memory and start-up of model servers, measured from outside: `python -m benchmarks --help`."""
