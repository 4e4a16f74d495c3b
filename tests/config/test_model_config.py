"""model-config.yaml by TorchServe's table of keys, types and clamps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver import config_keys
from archiver.config_file import MAX_CONFIG_BYTES, parse_config
from archiver.errors import InvalidConfig
from model_server.config.model_config import _FIELDS, ModelConfig, Torchrun, parse_model_config

EVERYTHING = b"""
minWorkers: 1
maxWorkers: 2
batchSize: 3
maxBatchDelay: 4
responseTimeout: 5
startupTimeout: 6
explanationTimeout: 7
deviceType: GPU
deviceIds: [0, 1]
parallelType: tp
parallelLevel: 8
maxRetryTimeoutInSec: 9
clientTimeoutInMills: 10
jobQueueSize: 11
useJobTicket: true
continuousBatching: true
sequenceBatching: true
sequenceMaxIdleMSec: 12
sequenceTimeoutMSec: 13
maxSequenceJobQueueSize: 14
maxNumSequence: 15
asyncCommunication: true
useVenv: true
batchingPolicy: fixed
retryOnWorkerDeath: false
retryOnError: no
torchrun:
  nnodes: 2
  nproc-per-node: 4
  rdzv-backend: etcd
  rdzv-endpoint: host:1
  rdzv-conf: a=b
  monitor-interval: 6
  node-rank: 1
  OMP_NUMBER_THREADS: 3
handler:
  mode: sequence_classification
  model_parallel: true
"""


def test_every_key() -> None:
    config, warnings = parse_model_config(EVERYTHING)
    assert warnings == []
    assert config == ModelConfig(
        min_workers=1,
        max_workers=2,
        batch_size=3,
        max_batch_delay_ms=4,
        response_timeout_s=5,
        startup_timeout_s=6,
        explanation_timeout_s=7,
        device_type="gpu",
        device_ids=(0, 1),
        parallel_type="tp",
        parallel_level=8,
        torchrun=Torchrun(
            nnodes=2,
            nproc_per_node=4,
            rdzv_backend="etcd",
            rdzv_endpoint="host:1",
            rdzv_conf="a=b",
            monitor_interval_s=6,
            node_rank=1,
            omp_number_threads=3,
        ),
        max_retry_timeout_s=9,
        client_timeout_ms=10,
        job_queue_size=11,
        use_job_ticket=True,
        continuous_batching=True,
        stateful=True,
        sequence_max_idle_ms=12,
        sequence_timeout_ms=13,
        max_sequence_job_queue_size=14,
        max_num_sequence=15,
        async_communication=True,
        use_venv=True,
        batching_policy="fixed",
        retry_on_worker_death=False,
        retry_on_error=False,
        model_parallel=True,
    )


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("minWorkers: 0", "min_workers", 1),
        ("minWorkers: -4", "min_workers", 1),
        ("batchSize: 0", "batch_size", 1),
        ("maxRetryTimeoutInSec: -1", "max_retry_timeout_s", 0),
        ("maxSequenceJobQueueSize: 0", "max_sequence_job_queue_size", 1),
        ("maxNumSequence: -2", "max_num_sequence", 1),
    ],
)
def test_clamps_are_silent(line: str, field: str, expected: int) -> None:
    config, warnings = parse_model_config(line.encode())
    assert getattr(config, field) == expected
    assert warnings == []


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("minWorkers: '4'", "Invalid minWorkers: '4', should be integer"),
        ("minWorkers: 4.0", "Invalid minWorkers: 4.0, should be integer"),
        ("minWorkers: true", "Invalid minWorkers: True, should be integer"),
        ("minWorkers: [4]", "Invalid minWorkers: [4], should be integer"),
        ("minWorkers: 99999999999", "Invalid minWorkers: 99999999999, should be integer"),
        ("maxWorkers: -1", "Invalid maxWorkers: -1, should be integer of 0 or more"),
        ("maxBatchDelay: -1", "Invalid maxBatchDelay: -1, should be integer of 0 or more"),
        ("responseTimeout: 0", "Invalid responseTimeout: 0, should be integer of 1 or more"),
        ("startupTimeout: -5", "Invalid startupTimeout: -5, should be integer of 1 or more"),
        ("jobQueueSize: 0", "Invalid jobQueueSize: 0, should be integer of 1 or more"),
        ("deviceType: neuron", "Invalid deviceType: 'neuron', should be one of cpu, gpu"),
        ("deviceIds: 3", "Invalid deviceIds: 3, should be list of integers"),
        ("deviceIds: [0, '1']", "Invalid deviceIds: [0, '1'], should be list of integers"),
        ("parallelType: zz", "Invalid parallelType: 'zz', should be one of pp, tp, pptp, custom"),
        ("useVenv: 'true'", "Invalid useVenv: 'true', should be boolean"),
        ("useJobTicket: 1", "Invalid useJobTicket: 1, should be boolean"),
        ("batchingPolicy: eager", "Invalid batchingPolicy: 'eager', should be one of adaptive, fixed"),
        ("torchrun: 4", "Invalid torchrun: 4, should be a map"),
        ("torchrun: {rdzv-id: 1}", "unsupported parameter rdzv-id in torchrun"),
        ("torchrun: {nnodes: two}", "Invalid nnodes: 'two', should be integer"),
        ("maxWorkers: 4", "maxWorkers: 4 has no effect without minWorkers"),
        ("{minWorkers: 3, maxWorkers: 2}", "maxWorkers: 2 is less than minWorkers: 3, raised to it"),
        ("sequenceBatching: true", "sequenceBatching has no effect without sequenceMaxIdleMSec greater than 0"),
        ("parallelLevel: 2", "parallelLevel: 2 has no effect without parallelType"),
        ("maxBatchDelay: 0", "maxBatchDelay: 0 counts as not set; 1 is the shortest"),
        ("batchsize: 4", "batchsize goes to the handler only, did you mean batchSize?"),
        ("max_batch_delay: 4", "max_batch_delay goes to the handler only, did you mean maxBatchDelay?"),
        ("minWorker: 4", "minWorker goes to the handler only, did you mean minWorkers?"),
    ],
)
def test_one_warning_names_key_value_and_what_is_expected(line: str, warning: str) -> None:
    config, warnings = parse_model_config(line.encode())
    assert config is not None
    assert [str(item) for item in warnings] == [warning]
    assert warnings[0].is_mistake


@pytest.mark.parametrize("line", ["minWorkers: '4'", "deviceIds: [0, x]", "deviceType: neuron", "useVenv: 'true'"])
def test_unusable_values_are_absent(line: str) -> None:
    assert parse_model_config(line.encode())[0] == ModelConfig()


@pytest.mark.parametrize(
    "key", ["handler", "pt2", "micro_batching", "temperature", "model_path", "vllm_engine_config", "max_length", "tp"]
)
def test_parameters_of_handlers_are_no_mistake(key: str) -> None:
    assert parse_model_config(f"{key}: 1".encode()) == (ModelConfig(), [])


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"---\n", b"minWorkers:\n"])
def test_nothing_set(content: bytes) -> None:
    assert parse_model_config(content) == (ModelConfig(), [])


@pytest.mark.parametrize(
    "content",
    [
        b"a: [",
        b"a: b: c",
        b"\xff\xfe\xfd",
        b"- a\n- b",
        b"just text",
        b"a: !!python/object/apply:os.system ['echo']",
        b"a: !!int ''",
        b"a: !!bool x",
        b"a: !!timestamp x",
        b"? [a]\n: b\n? {c: d}\n: e",
        b"a: &a [*a]",
        b"a: *nothing",
        b"a: 1\n---\nb: 2",
        b"a: " + b"[" * 33 + b"]" * 33,
        b"[" * 200_000,
        b"a: " + b"9" * 5000,
        b"#" * (MAX_CONFIG_BYTES + 1),
    ],
    ids=range(17),
)
def test_unreadable_files_are_absent_with_one_line(content: bytes) -> None:
    config, warnings = parse_model_config(content)
    assert config is None
    assert len(warnings) == 1 and "ignored" in str(warnings[0]) and "\n" not in str(warnings[0])


def test_a_flood_of_misspelt_keys_is_cut() -> None:
    _, warnings = parse_model_config(b"".join(b"batchsize%d: 1\n" % number for number in range(1000)))
    assert 0 < len(warnings) <= 200


def test_thirty_levels_are_fine() -> None:
    assert parse_model_config(b"a: " + b"[" * 30 + b"]" * 30) == (ModelConfig(), [])


def test_aliases_may_be_used_but_not_to_multiply() -> None:
    assert parse_config(b"a: &x {k: 1}\nb: {<<: *x, l: 2}", "c.yaml") == {"a": {"k": 1}, "b": {"k": 1, "l": 2}}
    levels = [b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [b"a%d: &a%d [%s]" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 10)]
    with pytest.raises(InvalidConfig, match="aliases written out"):
        parse_config(b"\n".join(levels), "c.yaml")
    merged = [b"a0: &a0 {k: 1}"]
    merged += [b"a%d: &a%d {<<: [%s]}" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 10)]
    with pytest.raises(InvalidConfig, match="aliases written out"):
        parse_config(b"\n".join(merged), "c.yaml")


@given(st.binary(max_size=200) | st.text("abWorkerskminxS:-[]{}&*!'\"\n #0129\t", max_size=200).map(str.encode))
def test_any_bytes_give_a_result(content: bytes) -> None:
    config, warnings = parse_model_config(content)
    assert config is not None or len(warnings) == 1


def test_the_archiver_knows_the_same_keys() -> None:
    """`model-archiver inspect` and the server must call the same things mistakes."""
    for keys, good, bad in (
        (config_keys.INTEGER_KEYS, b"2", b"'2'"),
        (config_keys.FLAG_KEYS, b"true", b"maybe"),
        (config_keys.LIST_KEYS, b"[0]", b"zero"),
    ):
        for key in keys:
            assert parse_model_config(key.encode() + b": " + good)[0] != ModelConfig()
            assert any(key in str(warning) for warning in parse_model_config(key.encode() + b": " + bad)[1])
            assert list(config_keys.mistakes({key: "x"})) != []
    assert set(config_keys.KEYS) == set(_FIELDS) | {"torchrun"}


def test_the_archiver_names_the_key_that_was_meant() -> None:
    assert "did you mean batchSize?" in " ".join(config_keys.mistakes({"batch_size": 4}))
    assert list(config_keys.mistakes({"temperature": 1, "batchSize": 4})) == []
