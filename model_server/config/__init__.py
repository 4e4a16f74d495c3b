"""Configuration: config.properties, the command line, the environment and model-config.yaml, as frozen dataclasses."""
