"""Where values come from and which one wins; what stops a start and what only warns."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from model_server.config.addresses import Address
from model_server.config.errors import ConfigError
from model_server.config.load import load_config
from model_server.config.server import CommandLine, ConfigWarning, Cors, ModelOverrides, ServerConfig, StartupModel


def load(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, **flags: object
) -> tuple[ServerConfig, list[ConfigWarning]]:
    """Load with `text` as the explicit configuration file."""
    file = folder / "my.properties"
    file.write_text(text, encoding="utf-8")
    flags = {"model_store": folder, "ts_config": file} | flags
    return load_config(CommandLine(**flags), environ or {}, folder)  # type: ignore[arg-type]


def messages(warnings: list[ConfigWarning]) -> str:
    return "\n".join(map(str, warnings))


def test_every_effective_key_reaches_its_field(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    text = """
inference_address=http://127.0.0.1:9080
management_address=unix:/tmp/m.sock
max_request_size=1
max_response_size=2
cors_allowed_origin=*
cors_allowed_methods=GET, POST
cors_allowed_headers=X-A
model_store=store
load_models=a.mar, b=c.mar
models={"b": {"1.0": {"minWorkers": 1, "maxWorkers": 2, "batchSize": 3, "maxBatchDelay": 4,\\
  "responseTimeout": 5, "startupTimeout": 6, "runtimeType": "python3", "defaultVersion": true, "marName": "c.mar"}}}
default_workers_per_model=3
job_queue_size=4
default_response_timeout=5
default_startup_timeout=6
unregister_model_timeout=7
number_of_gpu=8
default_service_handler=my_handler.py:handle
service_envelope=body
decode_input_request=false
limit_max_image_pixels=FALSE
blacklist_env_vars=.*TOKEN.*
enable_model_api=true
initial_worker_port=9500
disable_token_authorization=true
python=/usr/bin/python3
install_py_dep_per_model=true
requirements_timeout=9
fork_workers=false
requirements_cache=kept
allowed_urls=https://models\\\\.example/.*, file:///mnt/.*,
download_limit_mib=10
download_timeout=11
use_env_proxy=true
"""
    config, warnings = load(tmp_path, text, model_store=None)
    assert warnings == []
    assert config.inference_address == Address("http", "127.0.0.1", 9080)
    assert config.management_address == Address("unix", path=Path("/tmp/m.sock"))
    assert not config.is_combined_listener
    assert (config.max_request_size_bytes, config.max_response_size_bytes) == (1, 2)
    assert config.cors == Cors("*", "GET, POST", "X-A")
    assert config.model_stores == ((tmp_path / "store").resolve(),)
    assert config.load_models == (StartupModel(None, "a.mar"), StartupModel("b", "c.mar"))
    assert config.models == {
        "b": {
            "1.0": ModelOverrides(
                min_workers=1,
                max_workers=2,
                batch_size=3,
                max_batch_delay_ms=4,
                response_timeout_s=5,
                startup_timeout_s=6,
                runtime="python3",
            )
        }
    }
    assert config.default_workers_per_model == 3
    assert config.job_queue_size == 4
    assert (config.default_response_timeout_s, config.default_startup_timeout_s) == (5, 6)
    assert config.unregister_model_timeout_s == 7
    assert (config.usable_gpus(4), config.usable_gpus(16)) == (4, 8)
    assert (config.default_service_handler, config.service_envelope) == ("my_handler.py:handle", "body")
    assert (config.decode_input_request, config.limit_max_image_pixels) == (False, False)
    assert config.blacklist_env_vars == re.compile(".*TOKEN.*")
    assert config.enable_model_api
    assert config.initial_worker_port == 9500
    assert config.python == "/usr/bin/python3"
    assert (config.install_py_dep_per_model, config.requirements_timeout_s) == (True, 9)
    assert not config.fork_workers
    assert config.requirements_cache == (tmp_path / "kept").resolve()
    downloads = config.downloads
    assert [pattern.pattern for pattern in downloads.allowed_urls] == [r"https://models\.example/.*", "file:///mnt/.*"]
    assert (downloads.limit_bytes, downloads.timeout_s, downloads.use_env_proxy) == (10 << 20, 11, True)


# --- lookup order of the file ---


def test_file_of_the_environment_beats_the_flag_beats_the_folder(tmp_path: Path) -> None:
    for name, size in (("config.properties", 1), ("flag.properties", 2), ("env.properties", 3)):
        (tmp_path / name).write_text(f"job_queue_size={size}")
    flag = CommandLine(model_store=tmp_path, ts_config=Path("flag.properties"))
    plain = CommandLine(model_store=tmp_path)
    assert load_config(plain, {}, tmp_path)[0].job_queue_size == 1
    assert load_config(flag, {}, tmp_path)[0].job_queue_size == 2
    assert load_config(flag, {"TS_CONFIG_FILE": "env.properties"}, tmp_path)[0].job_queue_size == 3


def test_no_file_at_all(tmp_path: Path) -> None:
    config, warnings = load_config(CommandLine(model_store=tmp_path), {}, tmp_path)
    assert (config.config_file, config.job_queue_size, warnings) == (None, 100, [])
    assert config.origins["job_queue_size"] == "default"


# --- precedence of values ---


def test_flags_beat_the_file(tmp_path: Path) -> None:
    text = "enable_model_api=false\nload_models=all\nmodel_store=/nowhere"
    config, _ = load(tmp_path, text, enable_model_api=True, models=("x.mar",))
    assert config.enable_model_api
    assert config.load_models == (StartupModel(None, "x.mar"),)
    assert config.origins["load_models"] == "command line"
    assert config.model_stores == (tmp_path.resolve(),)


def test_environment_counts_only_where_the_file_allows_it(tmp_path: Path) -> None:
    environ = {"TS_JOB_QUEUE_SIZE": "7", "TS_LOAD_MODELS": "env.mar", "TS_ENABLE_ENVVARS_CONFIG": "true"}
    config, _ = load(tmp_path, "job_queue_size=5", environ)
    assert config.job_queue_size == 5
    config, _ = load(tmp_path, "job_queue_size=5\nenable_envvars_config=true", environ, models=("flag.mar",))
    assert config.job_queue_size == 7
    assert config.load_models == (StartupModel(None, "env.mar"),)
    assert config.origins["job_queue_size"] == "environment TS_JOB_QUEUE_SIZE"


@pytest.mark.parametrize("variable", ["TS_MODELS", "TS_MODEL_SNAPSHOT", "TS_VMARGS"])
def test_keys_the_environment_cannot_set(tmp_path: Path, variable: str) -> None:
    config, _ = load(tmp_path, "enable_envvars_config=true", {variable: "{}"})
    assert f"environment {variable}" not in config.origins.values()


def test_allowed_urls_need_a_permission_of_their_own(tmp_path: Path) -> None:
    environ = {"TS_ALLOWED_URLS": "https://x/.*"}
    config, _ = load(tmp_path, "enable_envvars_config=true", environ)
    assert config.origins["allowed_urls"] == "default"
    config, _ = load(tmp_path, "enable_envvars_config=true\nuse_env_allowed_urls=true", environ)
    assert config.settings["allowed_urls"].text == "https://x/.*"


def test_placeholders_are_replaced_from_the_environment(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "inference_address=http://$$HOST$$:$$PORT$$", {"HOST": "localhost", "PORT": "85"})
    assert config.inference_address == Address("http", "localhost", 85)


def test_last_of_repeated_keys_wins(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "job_queue_size=5\njob_queue_size=6")
    assert (config.job_queue_size, config.origins["job_queue_size"]) == (6, f"{tmp_path / 'my.properties'}:2")


def test_equal_addresses_are_one_listener(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "inference_address=http://127.0.0.1:8085\nmanagement_address=http://127.0.0.1:8085")
    assert config.is_combined_listener


def test_environment_of_the_process(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "", {"LOG_LOCATION": "my-logs", "TEMP": str(tmp_path)})
    assert (config.log_location, config.temp_dir) == (tmp_path / "my-logs", tmp_path.resolve())


def test_several_model_stores(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    expected = ((tmp_path / "a").resolve(), (tmp_path / "b").resolve())
    assert load(tmp_path, "model_store=a, b,", model_store=None)[0].model_stores == expected
    assert load(tmp_path, model_store=Path("a,b"))[0].model_stores == expected


def test_a_folder_with_a_comma_in_its_name_is_one_store(tmp_path: Path) -> None:
    for name in ("a", "b", "a,b"):
        (tmp_path / name).mkdir()
    assert load(tmp_path, model_store=Path("a,b"))[0].model_stores == ((tmp_path / "a,b").resolve(),)


def test_nothing_may_be_fetched_unless_it_is_said(tmp_path: Path) -> None:
    assert load(tmp_path)[0].downloads.allowed_urls == ()
    assert not load(tmp_path)[0].downloads.allow("file:///x.mar")


@pytest.mark.parametrize("patterns", ["file://.*|http(s)?://.*", ".*", "https://models/.*,file://.*"])
def test_letting_everything_be_fetched_is_pointed_out(tmp_path: Path, patterns: str) -> None:
    config, (warning,) = load(tmp_path, f"allowed_urls={patterns}")
    assert config.downloads.allow("file:///x.mar")
    assert str(warning).startswith(f"allowed_urls ({tmp_path / 'my.properties'}:1) lets whoever may register")
    assert not warning.is_mistake


@pytest.mark.parametrize(("value", "expected"), [("oip", "true"), ("OIP", "false"), ("x", "false"), ("", "true")])
def test_the_protocol_is_taken_from_the_environment_in_any_case(tmp_path: Path, value: str, expected: str) -> None:
    environ = {"TS_OPEN_INFERENCE_PROTOCOL": value}
    for permission in ("", "enable_envvars_config=true\n"):
        if permission and not value:
            continue
        config, _ = load(tmp_path, f"{permission}ts_open_inference_protocol=true", environ)
        assert config.settings["ts_open_inference_protocol"].text == expected


# --- what stops a start ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inference_address=127.0.0.1", "Invalid configuration: Invalid binding address: 127.0.0.1"),
        (
            "management_address=http://localhost:70000",
            "Invalid configuration: Invalid port number: http://localhost:70000",
        ),
        ("blacklist_env_vars=*", "Invalid configuration: blacklist_env_vars=* is not a regular expression"),
        ("allowed_urls=https://x,[", "Invalid configuration: allowed_urls=[ is not a regular expression"),
        ("model_snapshot={", "Invalid configuration: model_snapshot is not JSON"),
        ("load_models=$$NOT_SET$$", "Invalid configuration: Invalid Environment Variable NOT_SET"),
        ("a=\\u1", "Malformed"),
    ],
)
def test_values_that_stop(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"ts_config": Path("gone.properties")}, "--ts-config file not found: gone.properties"),
        ({"model_store": Path("gone")}, "--model-store directory not found: gone"),
        ({"model_store": Path(".,gone")}, "--model-store directory not found: gone"),
        ({"model_store": Path(",")}, "--model-store directory not found: ,"),
        ({"model_store": Path("my.properties")}, "--model-store directory not found: my.properties"),
        ({"model_store": None}, "Missing mandatory parameter --model-store"),
        ({"workflow_store": Path("gone")}, "--workflow-store directory not found: gone"),
        ({"log_config": Path("gone.xml")}, "--log-config file not found: gone.xml"),
        ({"cpp_log_config": Path("gone.xml")}, "--cpp-log-config file not found: gone.xml"),
    ],
)
def test_files_that_are_not_there(tmp_path: Path, flags: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, **flags)
    assert str(caught.value) == message


def test_temp_must_be_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "", {"TEMP": "/no/such"})
    assert str(caught.value) == "Invalid temp directory: /no/such, please check TEMP environment variable."


# --- what only warns ---


def test_unknown_keys_warn_with_line_and_nearest_key(tmp_path: Path) -> None:
    config, warnings = load(tmp_path, "\nmax_reqest_size=5\ncolour=red")
    file = tmp_path / "my.properties"
    assert messages(warnings).splitlines() == [
        f"{file}:2: unknown key max_reqest_size, ignored, did you mean max_request_size?",
        f"{file}:3: unknown key colour, ignored",
    ]
    assert all(warning.is_mistake for warning in warnings)
    assert config.max_request_size_bytes == 6553500


@pytest.mark.parametrize("value", ["ten", "0", "-3", "1.5", "99999999999"])
def test_bad_numbers_warn_and_the_default_holds(tmp_path: Path, value: str) -> None:
    config, warnings = load(tmp_path, f"job_queue_size={value}")
    assert (config.job_queue_size, config.origins["job_queue_size"]) == (100, "default")
    assert f"my.properties:1: job_queue_size={value} is not a whole number of 1 or more, using 100" in messages(
        warnings
    )


def test_bad_number_without_default(tmp_path: Path) -> None:
    config, warnings = load(tmp_path, "number_of_gpu=all")
    assert config.number_of_gpu is None
    assert "number_of_gpu=all" in messages(warnings)


def test_only_true_is_true(tmp_path: Path) -> None:
    config, warnings = load(tmp_path, "decode_input_request=yes\nenable_model_api=True")
    assert (config.decode_input_request, config.enable_model_api) == (False, True)
    assert "decode_input_request=yes is neither true nor false" in messages(warnings)
    assert len(warnings) == 1


def test_empty_values_mean_unset(tmp_path: Path) -> None:
    config, warnings = load(tmp_path, "job_queue_size=\ndecode_input_request=\nload_models=\nservice_envelope=")
    assert (config.job_queue_size, config.decode_input_request, config.load_models) == (100, True, ())
    assert (config.service_envelope, warnings) == (None, [])


def test_blanks_after_a_value_do_not_count(tmp_path: Path) -> None:
    assert load(tmp_path, "job_queue_size=12 \t")[0].job_queue_size == 12


def test_keys_without_effect_are_named_once_and_are_no_mistake(tmp_path: Path) -> None:
    _, warnings = load(tmp_path, "initial_distribution_port=1\nworkflow_store=w\nvmargs=-Xmx4g\ncpp_log_config=")
    file = tmp_path / "my.properties"
    assert messages(warnings).splitlines() == [
        f"has no effect yet in this version: workflow_store ({file}:2), initial_distribution_port ({file}:1)",
        f"has no effect here and can be left out: vmargs ({file}:3)",
    ]
    assert not any(warning.is_mistake for warning in warnings)


# --- startup models ---


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("a.mar",), [(None, "a.mar")]),
        (("A", "B=C", "D"), [(None, "A"), ("B", "C"), (None, "D")]),
        (("a=x.mar,b=y.mar",), [("a", "x.mar"), ("b", "y.mar")]),
        (("BERT=", "BERT.mar"), [("BERT", "BERT.mar")]),
        (("BERT", "=BERT.mar", "x"), [("BERT", "BERT.mar"), (None, "x")]),
        (("BERT", "=", "BERT.mar"), [("BERT", "BERT.mar")]),
        (("a.mar, b.mar",), [(None, "a.mar"), (None, "b.mar")]),
        (("a.mar,",), [(None, "a.mar")]),
        (("m=/some dir/model",), [("m", "/some dir/model")]),
        (("https://host/x.mar?sig=1",), [(None, "https://host/x.mar?sig=1")]),
        (("m=https://host/x.mar?sig=1",), [("m", "https://host/x.mar?sig=1")]),
        (("=a.mar",), [(None, "a.mar")]),
    ],
)
def test_startup_models(tmp_path: Path, words: tuple[str, ...], expected: list[tuple[str | None, str]]) -> None:
    config, warnings = load(tmp_path, models=words)
    assert config.load_models == tuple(StartupModel(name, url) for name, url in expected)
    assert warnings == []


@pytest.mark.parametrize("word", ["all", "ALL", " all "])
def test_all_models(tmp_path: Path, word: str) -> None:
    assert load(tmp_path, f"load_models={word}")[0].load_models == "all"


def test_name_without_archive_is_skipped(tmp_path: Path) -> None:
    config, warnings = load(tmp_path, "load_models=a=,b.mar")
    assert config.load_models == (StartupModel(None, "b.mar"),)
    assert messages(warnings) == "load_models: a= names no archive, skipped"


# --- models={...} ---


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "models: not JSON"),
        ("[" * 100_000, "models: not JSON"),
        ("[1]", "models: expected an object in braces, found [1], ignored"),
        ('{"m": 3}', "models: m: expected an object in braces, found 3, ignored"),
        ('{"m": {"1.0": null}}', "models: m 1.0: expected an object in braces, found None, ignored"),
        (
            '{"m": {"1.0": {"batchsize": 4}}}',
            "models: m 1.0: unknown key batchsize, ignored, did you mean batchSize?",
        ),
        ('{"m": {"1.0": {"batchSize": "four"}}}', "models: m 1.0 batchSize: 'four' is not a whole number, ignored"),
        ('{"m": {"1.0": {"batchSize": true}}}', "models: m 1.0 batchSize: True is not a whole number, ignored"),
        ('{"m": {"1.0": {"batchSize": 1.5}}}', "models: m 1.0 batchSize: 1.5 is not a whole number, ignored"),
        (
            '{"m": {"1.0": {"runtimeType": "java"}}}',
            "models: m 1.0 runtimeType: 'java' is none of python, python3, LSP, ignored",
        ),
    ],
)
def test_bad_models_tables_warn(tmp_path: Path, text: str, problem: str) -> None:
    config, warnings = load(tmp_path, f"models={text}")
    assert messages(warnings).startswith(problem)
    assert len(warnings) == 1
    overrides = config.models.get("m", {}).get("1.0", ModelOverrides())
    assert overrides == ModelOverrides()


def test_models_table_as_torchserve_reads_it(tmp_path: Path) -> None:
    config, warnings = load(tmp_path, 'models={"m": {"1.0": {"batchSize": "4", "maxBatchDelay": 0, "minWorkers": -1}}}')
    assert config.models["m"]["1.0"] == ModelOverrides(batch_size=4)
    assert warnings == []
