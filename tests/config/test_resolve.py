"""The precedence table, row by row."""

import pytest

from model_server.config.model_config import ModelConfig, Torchrun
from model_server.config.model_snapshot import SnapshotModel
from model_server.config.resolve import (
    ModelSettings,
    RegisterOverrides,
    find_overrides,
    resolve_model,
    restore_settings,
)
from model_server.config.server import ModelOverrides, ServerConfig

NOTHING = RegisterOverrides()


def resolve(
    request: RegisterOverrides = NOTHING,
    yaml: ModelConfig | None = None,
    table: ModelOverrides | None = None,
    server: ServerConfig | None = None,
    *,
    startup: bool = False,
    cpus: int = 8,
    gpus: int = 0,
) -> ModelSettings:
    return resolve_model(
        request, yaml, table, server or ServerConfig(), startup=startup, cpu_count=cpus, gpu_count=gpus
    )


def test_defaults() -> None:
    settings = resolve()
    assert (settings.min_workers, settings.max_workers) == (0, 0)
    assert (settings.batch_size, settings.max_batch_delay_ms) == (1, 100)
    assert (settings.response_timeout_s, settings.startup_timeout_s, settings.explanation_timeout_s) == (120, 120, 120)
    assert (settings.job_queue_size, settings.max_retry_timeout_s, settings.client_timeout_ms) == (100, 300, 0)
    assert (settings.device_type, settings.device_ids) == ("cpu", None)
    assert (settings.parallel_type, settings.parallel_level) == (None, 0)
    assert (settings.batching_policy, settings.retry_on_worker_death, settings.retry_on_error) == (
        "adaptive",
        True,
        True,
    )
    assert (settings.max_num_sequence, settings.max_sequence_job_queue_size) == (1, 1)
    assert settings.origins["batch_size"] == "default"
    assert settings.origins["response_timeout_s"] == "default_response_timeout"
    assert settings.warnings == ()


# --- batch size and delay: request > yaml > models= > default ---

BATCHING = {"request": 4, "model-config.yaml": 3, "models=": 2}


@pytest.mark.parametrize("field", ["batch_size", "max_batch_delay_ms"])
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_batching(field: str, absent: int) -> None:
    present = list(BATCHING)[absent:]
    settings = resolve(
        RegisterOverrides(**{field: 4}) if "request" in present else NOTHING,
        ModelConfig(**{field: 3}) if "model-config.yaml" in present else ModelConfig(),  # type: ignore[arg-type]
        ModelOverrides(**{field: 2}),  # type: ignore[arg-type]
    )
    assert getattr(settings, field) == BATCHING[present[0]]
    assert settings.origins[field] == present[0]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_impossible_batch_size_counts_as_not_given(batch_size: int) -> None:
    assert resolve(RegisterOverrides(batch_size=batch_size), ModelConfig(batch_size=3)).batch_size == 3


def test_delay_of_zero_holds_in_a_request_and_is_unset_in_yaml() -> None:
    assert resolve(RegisterOverrides(max_batch_delay_ms=0), ModelConfig(max_batch_delay_ms=5)).max_batch_delay_ms == 0
    assert resolve(NOTHING, ModelConfig(max_batch_delay_ms=0)).max_batch_delay_ms == 100
    assert resolve(RegisterOverrides(max_batch_delay_ms=-100)).max_batch_delay_ms == 100


# --- timeouts: yaml > request > models= > default ---

TIMEOUTS = {"model-config.yaml": 30, "request": 40, "models=": 20}


@pytest.mark.parametrize("field", ["response_timeout_s", "startup_timeout_s"])
@pytest.mark.parametrize("absent", [0, 1, 2])
def test_timeouts(field: str, absent: int) -> None:
    present = list(TIMEOUTS)[absent:]
    settings = resolve(
        RegisterOverrides(**{field: 40}) if "request" in present else NOTHING,
        ModelConfig(**{field: 30}) if "model-config.yaml" in present else ModelConfig(),  # type: ignore[arg-type]
        ModelOverrides(**{field: 20}),  # type: ignore[arg-type]
    )
    assert getattr(settings, field) == TIMEOUTS[present[0]]
    assert settings.origins[field] == present[0]


def test_timeouts_of_the_server_come_last() -> None:
    server = ServerConfig(default_response_timeout_s=7, default_startup_timeout_s=8)
    settings = resolve(RegisterOverrides(response_timeout_s=-1), ModelConfig(), None, server)
    assert (settings.response_timeout_s, settings.startup_timeout_s) == (7, 8)


def test_explanations_have_their_own_timeout() -> None:
    assert resolve(RegisterOverrides(response_timeout_s=9)).explanation_timeout_s == 9
    assert resolve(NOTHING, ModelConfig(response_timeout_s=9, explanation_timeout_s=60)).explanation_timeout_s == 60


# --- workers of the register API: the larger of initial_workers and minWorkers, maxWorkers raised to fit ---


@pytest.mark.parametrize(
    ("initial", "yaml", "default", "expected"),
    [
        (None, ModelConfig(), 0, (0, 0)),
        (0, ModelConfig(), 5, (0, 0)),
        (-1, ModelConfig(), 5, (0, 0)),
        (2, ModelConfig(), 0, (2, 2)),
        (None, ModelConfig(), 3, (3, 3)),
        (None, ModelConfig(min_workers=1, max_workers=4), 3, (1, 4)),
        (0, ModelConfig(min_workers=2, max_workers=4), 0, (2, 4)),
        (1, ModelConfig(min_workers=2, max_workers=4), 0, (2, 4)),
        (3, ModelConfig(min_workers=2, max_workers=4), 0, (3, 4)),
        (5, ModelConfig(min_workers=2, max_workers=4), 0, (5, 5)),
        (0, ModelConfig(min_workers=2), 0, (2, 2)),
        (0, ModelConfig(min_workers=3, max_workers=2), 0, (3, 3)),
        (1, ModelConfig(max_workers=4), 0, (1, 1)),
    ],
)
def test_registration_workers(initial: int | None, yaml: ModelConfig, default: int, expected: tuple[int, int]) -> None:
    table = ModelOverrides(min_workers=7, max_workers=9)  # not consulted
    server = ServerConfig(default_workers_per_model=default)
    settings = resolve(RegisterOverrides(initial_workers=initial), yaml, table, server)
    assert (settings.min_workers, settings.max_workers) == expected


# --- workers at start: yaml > models= > default_workers_per_model (0: one per GPU, else one) ---


@pytest.mark.parametrize(
    ("yaml", "table", "default", "gpus", "expected"),
    [
        (ModelConfig(min_workers=2, max_workers=4), ModelOverrides(min_workers=7), 5, 8, (2, 4)),
        (ModelConfig(min_workers=2), None, 5, 8, (2, 2)),
        (ModelConfig(max_workers=4), ModelOverrides(min_workers=3, max_workers=6), 5, 8, (3, 6)),
        (None, ModelOverrides(min_workers=3), 5, 8, (3, 3)),
        (None, ModelOverrides(batch_size=3), 5, 8, (5, 5)),
        (None, None, 0, 8, (8, 8)),
        (None, None, 0, 0, (1, 1)),
        (ModelConfig(device_type="cpu"), None, 0, 8, (1, 1)),
        (ModelConfig(device_ids=(1, 2)), None, 0, 8, (2, 2)),
        (ModelConfig(parallel_type="tp", parallel_level=4), None, 0, 8, (2, 2)),
        (ModelConfig(parallel_type="tp", parallel_level=4), None, 0, 2, (1, 1)),
        (ModelConfig(model_parallel=True), None, 0, 8, (1, 1)),
    ],
)
def test_startup_workers(
    yaml: ModelConfig | None, table: ModelOverrides | None, default: int, gpus: int, expected: tuple[int, int]
) -> None:
    server = ServerConfig(default_workers_per_model=default)
    settings = resolve(NOTHING, yaml, table, server, startup=True, gpus=gpus)
    assert (settings.min_workers, settings.max_workers) == expected


def test_more_cpu_workers_than_cores_is_said() -> None:
    assert resolve(RegisterOverrides(initial_workers=3), cpus=2).warnings == (
        "3 workers share 2 CPU cores: more workers than cores are slower",
    )
    assert resolve(RegisterOverrides(initial_workers=2), cpus=2).warnings == ()
    assert resolve(RegisterOverrides(initial_workers=3), cpus=2, gpus=1).warnings == ()


# --- the rest ---


def test_queue_is_the_archives_or_the_servers() -> None:
    server = ServerConfig(job_queue_size=7)
    assert resolve(server=server).job_queue_size == 7
    assert resolve(NOTHING, ModelConfig(job_queue_size=3), server=server).job_queue_size == 3


def test_runtime_of_the_table_beats_the_request() -> None:
    assert resolve().runtime is None
    assert resolve(RegisterOverrides(runtime="LSP")).runtime == "LSP"
    assert resolve(RegisterOverrides(runtime="LSP"), None, ModelOverrides(runtime="python3")).runtime == "python3"


@pytest.mark.parametrize(
    ("yaml", "gpus", "limit", "expected"),
    [
        (ModelConfig(), 2, None, "gpu"),
        (ModelConfig(), 2, 0, "cpu"),
        (ModelConfig(device_type="cpu"), 2, None, "cpu"),
        (ModelConfig(device_type="gpu"), 2, None, "gpu"),
        (ModelConfig(device_type="gpu"), 0, None, "cpu"),
    ],
)
def test_device_type(yaml: ModelConfig, gpus: int, limit: int | None, expected: str) -> None:
    assert resolve(NOTHING, yaml, server=ServerConfig(number_of_gpu=limit), gpus=gpus).device_type == expected


def test_gpu_wanted_where_there_is_none_is_said() -> None:
    warnings = resolve(NOTHING, ModelConfig(device_type="gpu")).warnings
    assert warnings == ("deviceType: gpu, but there is no GPU to use: running on cpu",)


def test_one_device_out_of_range_discards_the_whole_list() -> None:
    assert resolve(NOTHING, ModelConfig(device_ids=(0, 3)), gpus=4).device_ids == (0, 3)
    assert resolve(NOTHING, ModelConfig(device_ids=()), gpus=4).device_ids is None
    settings = resolve(NOTHING, ModelConfig(device_ids=(0, 4)), gpus=4)
    assert settings.device_ids is None
    assert settings.warnings == ("deviceIds: [0, 4] ignored, GPUs here are 0 to 3",)


def test_that_torchrun_is_not_there_yet_is_said() -> None:
    warnings = resolve(NOTHING, ModelConfig(parallel_type="tp", parallel_level=1), gpus=1).warnings
    assert [warning.partition(" ")[0] for warning in warnings] == ["parallelType:"]
    assert resolve(NOTHING, ModelConfig(parallel_type="custom", parallel_level=1), gpus=1).warnings == ()


def test_parallel_level_needs_a_type_and_yields_to_torchrun() -> None:
    assert resolve(NOTHING, ModelConfig(parallel_level=2)).parallel_level == 0
    assert resolve(NOTHING, ModelConfig(parallel_type="pp", parallel_level=2)).parallel_level == 2
    yaml = ModelConfig(parallel_type="pp", parallel_level=2, torchrun=Torchrun(nproc_per_node=4))
    assert resolve(NOTHING, yaml).parallel_level == 4


def test_sequences_need_an_idle_limit() -> None:
    wanted = {"stateful": True, "sequence_timeout_ms": 5, "max_num_sequence": 6, "max_sequence_job_queue_size": 7}
    settings = resolve(NOTHING, ModelConfig(**wanted))  # type: ignore[arg-type]
    assert (settings.stateful, settings.sequence_timeout_ms, settings.max_num_sequence) == (False, 0, 1)
    settings = resolve(NOTHING, ModelConfig(**wanted, sequence_max_idle_ms=8))  # type: ignore[arg-type]
    assert (settings.stateful, settings.sequence_max_idle_ms, settings.sequence_timeout_ms) == (True, 8, 5)
    assert (settings.max_num_sequence, settings.max_sequence_job_queue_size) == (6, 7)


def test_switches_of_the_archive_are_taken_over() -> None:
    switches = ("continuous_batching", "async_communication", "use_job_ticket", "use_venv", "model_parallel")
    settings = resolve(NOTHING, ModelConfig(**dict.fromkeys(switches, True)))  # type: ignore[arg-type]
    assert all(getattr(settings, switch) for switch in switches)
    yaml = ModelConfig(batching_policy="fixed", retry_on_error=False, retry_on_worker_death=False)
    settings = resolve(NOTHING, yaml)
    assert (settings.batching_policy, settings.retry_on_error, settings.retry_on_worker_death) == (
        "fixed",
        False,
        False,
    )
    assert settings.origins["retry_on_error"] == "model-config.yaml"


def test_every_setting_has_an_origin() -> None:
    settings = resolve(RegisterOverrides(batch_size=2), ModelConfig(min_workers=1), ModelOverrides(startup_timeout_s=3))
    assert set(settings.origins) == set(ModelSettings.__dataclass_fields__) - {"origins", "warnings"}


# --- models= entries ---

ENTRY, OTHER = ModelOverrides(batch_size=4), ModelOverrides(batch_size=8)


def test_exact_version() -> None:
    assert find_overrides({"m": {"1.0": ENTRY, "2.0": OTHER}}, "m", "2.0") == (OTHER, None)


def test_nothing_for_this_model() -> None:
    assert find_overrides({"other": {"1.0": ENTRY}}, "m", "1.0") == (None, None)
    assert find_overrides({"m": {}}, "m", "1.0") == (None, None)


def test_only_version_is_applied_with_a_warning_naming_both() -> None:
    found, warning = find_overrides({"m": {"2.0": ENTRY}}, "m", "1.0")
    assert found == ENTRY
    assert str(warning) == "models: m has settings for version 2.0, the archive is version 1.0: applied all the same"


def test_one_of_several_versions_is_not_guessed() -> None:
    found, warning = find_overrides({"m": {"2.0": ENTRY, "3.0": OTHER}}, "m", "1.0")
    assert found is None
    assert str(warning) == "models: m has settings for version 2.0, 3.0, the archive is version 1.0: none applied"


def test_workers_of_a_spread_model_are_advised_against() -> None:
    request = RegisterOverrides(initial_workers=2)
    settings = resolve_model(
        request, ModelConfig(model_parallel=True), None, ServerConfig(), startup=False, cpu_count=8, gpu_count=2
    )
    assert settings.min_workers == 2
    assert any("model_parallel" in warning and "use 1" in warning for warning in settings.warnings)


# --- what a snapshot says wins over everything ---


def snapshot_model(**fields: int) -> SnapshotModel:
    values = {"min_workers": 2, "max_workers": 5, "batch_size": 6, "max_batch_delay_ms": 7, **fields}
    return SnapshotModel(name="m", version="1.0", is_default=True, mar_name="m.mar", **values)  # type: ignore[arg-type]


def test_a_snapshot_beats_request_yaml_and_table() -> None:
    yaml = ModelConfig(min_workers=1, batch_size=2, max_batch_delay_ms=3, response_timeout_s=4, job_queue_size=5)
    settings = restore_settings(
        resolve(RegisterOverrides(batch_size=9), yaml, ModelOverrides(startup_timeout_s=8)),
        snapshot_model(response_timeout_s=33, startup_timeout_s=44),
    )
    assert (settings.min_workers, settings.max_workers) == (2, 5)
    assert (settings.batch_size, settings.max_batch_delay_ms) == (6, 7)
    assert (settings.response_timeout_s, settings.startup_timeout_s) == (33, 44)
    assert settings.job_queue_size == 5
    assert (settings.origins["batch_size"], settings.origins["job_queue_size"]) == (
        "model_snapshot",
        "model-config.yaml",
    )


def test_a_snapshot_knows_no_time_for_explanations() -> None:
    restored = snapshot_model(response_timeout_s=33)
    assert restore_settings(resolve(), restored).explanation_timeout_s == 33
    own = resolve(yaml=ModelConfig(explanation_timeout_s=55))
    assert restore_settings(own, restored).explanation_timeout_s == 55


def test_numbers_of_a_snapshot_that_make_no_sense_are_raised() -> None:
    settings = restore_settings(resolve(), snapshot_model(max_workers=0, batch_size=0, response_timeout_s=0))
    assert (settings.min_workers, settings.max_workers) == (2, 2)
    assert (settings.batch_size, settings.response_timeout_s) == (1, 1)
