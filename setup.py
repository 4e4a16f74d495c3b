"""Packaging of modelserver: three import packages, two commands."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / "model_server" / "__init__.py").read_text(encoding="utf-8"), VERSION)

# Ranges stay wide: a server lives beside other people's packages. constraints.txt pins the set the tests run with.
REQUIRES = [
    "aiohttp>=3.14.3,<4",
    "click>=8.1",
    "prometheus-client>=0.20",
    "psutil>=5.9",
    "PyYAML>=6.0",
    'uvloop>=0.19; platform_system != "Windows"',
    "torch>=2.4",
    "transformers>=4.44",
    "safetensors>=0.4.3",
    "captum>=0.7",
    "optimum>=1.21",
]
EXTRAS = {
    "accelerate": ["accelerate>=0.33"],  # model_parallel: one model spread over several devices
    "grpc": ["grpcio>=1.60", "protobuf>=4.25"],
    "onnx": ["onnxruntime>=1.17"],
    "tls": ["cryptography>=42"],  # key stores, and a certificate made at start; PEM files need nothing
    "vision": ["pillow>=10.0"],
}
DEV = [
    "googleapis-common-protos>=1.60",
    "grpcio-health-checking>=1.60",
    "grpcio-tools>=1.60",
    "hypothesis>=6.100",
    "matplotlib>=3.8",
    "mypy>=1.11",
    "openapi-spec-validator>=0.7",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "requests>=2.31",
    "ruff>=0.6",
    "types-grpcio",
    "types-protobuf",
    "types-psutil",
    "types-PyYAML",
    "types-requests",
]

setup(
    name="modelserver",
    version=VERSION["__version__"],
    description="Serve PyTorch and Hugging Face models from .mar archives: predictions, explanations, batching",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["archiver*", "handlers*", "model_server*"]),
    package_data={
        "archiver": ["py.typed"],
        "handlers": ["py.typed"],
        "model_server": ["py.typed", "api/grpc/services.binpb", "metrics/metrics.yaml"],
    },
    install_requires=REQUIRES,
    extras_require={
        **EXTRAS,
        "all": sorted({requirement for extra in EXTRAS.values() for requirement in extra}),
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "modelserver = model_server.cli:main",
            "model-archiver = archiver.cli:main",
        ],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
