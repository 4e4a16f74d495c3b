"""TorchServe's gRPC services, gRPC's health service, and their listeners. Imported only where grpc is installed."""

import os

_FORK_SUPPORT = "GRPC_ENABLE_FORK_SUPPORT"

# gRPC reads it once, when it is imported. Worker processes that are started would each leave a line in the log; what
# handlers do with gRPC is not ours to decide.
if _FORK_SUPPORT not in os.environ:
    os.environ[_FORK_SUPPORT] = "0"
    import grpc  # noqa: F401

    del os.environ[_FORK_SUPPORT]
