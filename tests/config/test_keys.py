"""The catalogue against TorchServe's documented keys, and the root config.properties against the catalogue."""

import re
from pathlib import Path

import pytest

from model_server.config.keys import CATALOGUE, Effect
from model_server.config.load import load_config
from model_server.config.properties import parse_properties
from model_server.config.server import CommandLine, ServerConfig
from model_server.config.spelling import nearest

ROOT_FILE = Path(__file__).parents[2] / "config.properties"

# What TorchServe reads of model-config.yaml.
TORCHSERVE_ARCHIVE_KEYS = """
minWorkers maxWorkers batchSize maxBatchDelay responseTimeout startupTimeout deviceType deviceIds parallelType
parallelLevel torchrun maxRetryTimeoutInSec clientTimeoutInMills jobQueueSize useJobTicket sequenceMaxIdleMSec
sequenceTimeoutMSec maxSequenceJobQueueSize maxNumSequence sequenceBatching continuousBatching asyncCommunication
useVenv
"""
# Key, type and default as TorchServe 0.12 has them; "-" is unset.
TORCHSERVE_KEYS = """
inference_address address http://127.0.0.1:8080
management_address address http://127.0.0.1:8081
metrics_address address http://127.0.0.1:8082
grpc_inference_address string 127.0.0.1
grpc_management_address string 127.0.0.1
grpc_inference_port integer 7070
grpc_management_port integer 7071
grpc_inference_max_connection_age_ms integer -
grpc_management_max_connection_age_ms integer -
grpc_inference_max_connection_age_grace_ms integer -
grpc_management_max_connection_age_grace_ms integer -
enable_grpc_ssl boolean false
keystore path -
keystore_pass string changeit
keystore_type string PKCS12
private_key_file path -
certificate_file path -
cors_allowed_origin string -
cors_allowed_methods string -
cors_allowed_headers string -
max_request_size integer 6553500
max_response_size integer 6553500
number_of_netty_threads integer 0
netty_client_threads integer 0
prefer_direct_buffer boolean false
use_native_io boolean true
io_ratio integer 50
ts_open_inference_protocol boolean false
model_store path -
workflow_store path -
load_models string -
models json -
model_snapshot json -
default_workers_per_model integer 0
job_queue_size integer 100
default_response_timeout integer 120
default_startup_timeout integer 120
unregister_model_timeout integer 120
number_of_gpu integer -
initial_worker_port integer 9000
initial_distribution_port integer 29500
default_service_handler string -
service_envelope string -
decode_input_request boolean true
install_py_dep_per_model boolean false
limit_max_image_pixels boolean true
blacklist_env_vars regex -
cpu_launcher_enable boolean false
cpu_launcher_args string -
ipex_enable boolean false
ipex_gpu_enable boolean false
python path -
debug boolean false
ts_header_key_sequence_id string ts_request_sequence_id
ts_header_key_sequence_start string ts_request_sequence_start
ts_header_key_sequence_end string ts_request_sequence_end
allowed_urls string file://.*|http(s)?://.*
use_env_allowed_urls boolean false
enable_envvars_config boolean false
disable_token_authorization boolean false
token_expiration_min number 60
enable_model_api boolean false
enable_metrics_api boolean true
metrics_mode string log
metrics_config path -
model_metrics_auto_detect boolean false
disable_system_metrics boolean false
system_metrics_cmd string -
metric_time_interval integer 60
async_logging boolean false
cpp_log_config path -
vmargs string -
plugins_path string -
model_server_home path -
NUM_WORKERS integer 1
"""


# What TorchServe has nothing like.
OWN_KEYS = """
requirements_timeout integer 600
requirements_cache path -
fork_workers boolean true
log_format string text
log_level string INFO
download_limit_mib integer 65536
download_timeout integer 3600
use_env_proxy boolean false
"""

# TorchServe's default lets anything be fetched.
OWN_DEFAULTS = {"allowed_urls": None}


def test_catalogue_is_torchserves_and_a_few_keys_of_our_own() -> None:
    rows = [line.split() for line in (TORCHSERVE_KEYS + OWN_KEYS).splitlines() if line]
    expected = {name: (type_, None if default == "-" else default) for name, type_, default in rows}
    expected |= {name: (expected[name][0], default) for name, default in OWN_DEFAULTS.items()}
    assert {key.name: (key.type, key.default) for key in CATALOGUE.values()} == expected


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("inference_address", "TS_INFERENCE_ADDRESS"),
        ("job_queue_size", "TS_JOB_QUEUE_SIZE"),
        ("token_expiration_min", "TS_TOKEN_EXPIRATION_TIME_MIN"),
        ("ts_open_inference_protocol", "TS_OPEN_INFERENCE_PROTOCOL"),
        ("ts_header_key_sequence_start", "TS_HEADER_KEY_SEQUENCE_START"),
        ("models", None),
        ("model_snapshot", None),
        ("metric_time_interval", None),
        ("enable_envvars_config", None),
        ("vmargs", None),
    ],
)
def test_names_of_environment_variables(name: str, variable: str | None) -> None:
    assert CATALOGUE[name].env == variable


def test_root_file_holds_every_key_with_its_default_and_a_comment() -> None:
    text = ROOT_FILE.read_text(encoding="utf-8")
    entries = dict(re.findall(r"^# (.+)\n(#?\w+=.*)$", text, re.MULTILINE))
    lines = {line: comment for comment, line in entries.items()}
    expected = {f"#{key.name}=" if key.default is None else f"{key.name}={key.default}" for key in CATALOGUE.values()}
    assert set(lines) == expected
    for key in CATALOGUE.values():
        comment = lines[f"#{key.name}=" if key.default is None else f"{key.name}={key.default}"]
        note = {Effect.NOW: "", Effect.LATER: " (no effect yet)", Effect.NEVER: " (no effect here)"}[key.effect]
        assert comment == key.help + note


def test_root_file_parses_to_the_defaults() -> None:
    parsed = {entry.key: entry.value for entry in parse_properties(ROOT_FILE.read_text(encoding="utf-8"))}
    assert parsed == {key.name: key.default for key in CATALOGUE.values() if key.default is not None}


def test_root_file_changes_nothing(tmp_path: Path) -> None:
    command_line = CommandLine(model_store=tmp_path)
    with_file, warnings = load_config(CommandLine(ts_config=ROOT_FILE, model_store=tmp_path), {}, tmp_path)
    without_file, _ = load_config(command_line, {}, tmp_path)
    assert warnings == []
    for name in ServerConfig.__dataclass_fields__:
        if name not in ("settings", "config_file"):
            assert getattr(with_file, name) == getattr(without_file, name), name


def test_fields_of_an_empty_configuration_are_the_class_defaults(tmp_path: Path) -> None:
    config, _ = load_config(CommandLine(model_store=tmp_path), {}, tmp_path)
    plain = ServerConfig()
    for name in ServerConfig.__dataclass_fields__:
        if name not in ("settings", "model_stores", "log_location", "logs", "metrics"):
            assert getattr(config, name) == getattr(plain, name), name


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("max_reqest_size", "max_request_size"),
        ("jobQueueSize", "job_queue_size"),
        ("inference-address", "inference_address"),
        ("defualt_workers_per_model", "default_workers_per_model"),
        ("x" * 100_000, None),
        ("colour", None),
    ],
)
def test_nearest_key(typed: str, meant: str | None) -> None:
    assert nearest(typed, CATALOGUE) == meant


def test_the_compatibility_page_has_every_key_with_its_state() -> None:
    text = (ROOT_FILE.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
    section = text.partition("### Keys of config.properties\n")[2].partition("\n#")[0]
    states = {"works": Effect.NOW, "": Effect.NOW, "not yet": Effect.LATER, "never": Effect.NEVER}
    listed = [
        (key, states[state])
        for keys, state in re.findall(r"^\| (`.+`) \| ?(.*?) ?\| .*\|$", section, re.MULTILINE)
        for key in re.findall("`([^`]+)`", keys)
    ]
    assert len(listed) == len(CATALOGUE)
    assert dict(listed) == {key.name: key.effect for key in CATALOGUE.values()}


def test_the_compatibility_page_has_every_key_of_an_archive() -> None:
    text = (ROOT_FILE.parent / "docs" / "compatibility.md").read_text(encoding="utf-8")
    section = text.partition("### Keys of model-config.yaml\n")[2].partition("\n#")[0]
    # The contract with TorchServe, section 5 of its part on handlers, and the four that are ours.
    ours = {"explanationTimeout", "batchingPolicy", "retryOnWorkerDeath", "retryOnError"}
    assert set(re.findall("`([A-Za-z]+)`", section)) >= set(TORCHSERVE_ARCHIVE_KEYS.split()) | ours
