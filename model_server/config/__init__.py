"""Configuration: config.properties, the command line, the environment and model-config.yaml, as frozen dataclasses.

`load_config` gives the `ServerConfig`, `parse_model_config` an archive's `ModelConfig`, and `resolve_model` makes one
version's `ModelSettings` of both and of what a registration asks for.
"""
