"""What ends a benchmark run early."""


class BenchmarkError(Exception):
    """Something needed is missing, a server did not start, or it answered wrongly; the message says what to do."""
