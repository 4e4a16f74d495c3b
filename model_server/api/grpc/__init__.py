"""TorchServe's gRPC services, gRPC's health service, and their listeners. Imported only where grpc is installed."""
