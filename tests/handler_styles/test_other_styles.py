"""Handlers of sound, tables and other things as TorchServe's users write them."""

from __future__ import annotations

import io
import itertools
import json
import wave
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from servers import Server, Servers, together
from style_workshop import JSON, ROWS, TEXT, Workshop, load_network, load_pretrained
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

MAX_RESPONSE_SIZE = 65_535_000
COLOURS = torch.tensor([[250, 0, 0], [0, 0, 250]])
IRIS = {"0": "setosa", "1": "versicolor", "2": "virginica"}
STUMPS = [
    {"feature": 2, "threshold": 2.5, "below": 0, "above": 1},
    {"feature": 3, "threshold": 1.7, "below": 1, "above": 2},
    {"feature": 2, "threshold": 4.8, "below": 0, "above": 2},
    {"feature": 0, "threshold": 5.0, "below": 0, "above": 1},
]
ONE_RECOMMENDATION = {
    "float_features": [0.5, -1.0, 2.0],
    "id_list_features.lengths": [3],
    "id_list_features.values": [1, 4, 9],
}
LETTERS = [3, 1, 20]
SOUNDS = ["<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C"]


def tone(*amplitudes: int) -> bytes:
    """A WAV file, 16 kHz, 16 bits: blocks of 400 samples, each a square wave of one of the amplitudes."""
    samples = [sign * amplitude for amplitude in amplitudes for _ in range(200) for sign in (1, -1)]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(torch.tensor(samples, dtype=torch.int16).numpy().tobytes())
    return buffer.getvalue()


class Decoder(nn.Module):
    """A letter for every 400 samples: the louder, the later in the alphabet."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        loudness: torch.Tensor = samples.reshape(-1, 400).abs().mean(1)
        return (loudness * 32).round().long()


class Activity(nn.Module):
    """Scores of three activities from loudness and number of words."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        loudness, words = features[:, 0], features[:, 1]
        return torch.stack([loudness, words, 1 - loudness], dim=1)


class Halving(nn.Module):
    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / 2


@pytest.fixture(scope="module")
def server(module_servers: Servers, workshop: Workshop) -> Server:
    models = [*sound_archives(workshop), *table_archives(workshop), *diffusion_archives(workshop), *services(workshop)]
    config = {"max_response_size": MAX_RESPONSE_SIZE, "vmargs": "-Xmx4g", "number_of_netty_threads": 8}
    return module_servers.start(models, config, environment={"OMP_NUM_THREADS": "1"})


def sound_archives(workshop: Workshop) -> list[str]:
    unused = workshop.file("requirements.txt", "a-package-that-is-nowhere==1.0\n")
    torch.save(vocoder(), workshop.inputs / "vocoder.pt")
    torch.save(torch.tensor(0.5), workshop.inputs / "speaker.pt")
    voice = {
        "model": "m",
        "vocoder": "vocoder.pt",
        "processor": "p",
        "speaker_embeddings": "speaker.pt",
        "output_dir": "out",
    }
    labels = workshop.file("labels.csv", "index,label\n0,shouting\n1,talking\n2,sleeping\n")
    pack = workshop.pack
    return [
        pack(
            "MMF_activity_recognition_v2",
            "mmf/handler.py",
            extra=[labels],
            serialized_file=workshop.scripted("mmf.pt", Activity()),
            requirements_file=unused,
        ),
        pack(
            "rnnt",
            "asr_rnnt/handler.py",
            serialized_file=workshop.scripted("decoder.pt", Decoder()),
            requirements_file=unused,
        ),
        pack("Wav2Vec2", "wav2vec2/handler.py", extra=[speech_model(workshop.inputs / "wav2vec2")]),
        pack(
            "SpeechT5-TTS",
            "speecht5/text_to_speech_handler.py",
            {"handler": voice},
            [workshop.inputs / "vocoder.pt", workshop.inputs / "speaker.pt"],
            archive_format="no-archive",
        ),
    ]


def vocoder() -> torch.Tensor:
    """Eight sounds of 20 samples."""
    return torch.linspace(-1, 1, 160).reshape(8, 20)


def speech_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({sound: index for index, sound in enumerate(SOUNDS)}))
    tokenizer: Any = Wav2Vec2CTCTokenizer
    tokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    extractor: Any = Wav2Vec2FeatureExtractor
    extractor(feature_size=1, sampling_rate=16_000, padding_value=0.0).save_pretrained(folder)
    torch.manual_seed(5)
    config = Wav2Vec2Config(
        vocab_size=len(SOUNDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(10, 8),
        conv_stride=(5, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.5,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def table_archives(workshop: Workshop) -> list[str]:
    network = load_network("torchrec/dlrm.py", "DLRM")
    return [
        workshop.pack(
            "dlrm",
            "torchrec/dlrm_handler.py",
            {"batchSize": 4, "maxBatchDelay": 50},
            model_file="torchrec/dlrm.py",
            serialized_file=workshop.weights("dlrm.pt", network),
        ),
        workshop.pack(
            "xgb_iris",
            "xgboost/xgb_iris_handler.py",
            extra=["xgboost/tiny_boost.py", workshop.file("index_to_name.json", IRIS)],
            serialized_file=workshop.file("iris_model.json", {"stumps": STUMPS}),
        ),
    ]


def diffusion_archives(workshop: Workshop) -> list[str]:
    torch.save(COLOURS, workshop.inputs / "colours.pt")
    with zipfile.ZipFile(workshop.inputs / "model.zip", "w") as archive:
        archive.write(workshop.inputs / "colours.pt", "unet.pt")
    openvino = {
        "deviceType": "cpu",
        "pt2": {"backend": "openvino", "options": {"device": "CPU"}},
        "handler": {"profile": True, "num_inference_steps": 3},
    }
    fast = {
        "handler": {"profile": True, "num_inference_steps": 5, "compile_unet": False, "enable_fused_projections": True}
    }
    unet = workshop.scripted("unet.pt", Halving())
    pack = workshop.pack
    return [
        pack("stable-diffusion", "diffusers/stable_diffusion_handler.py", extra=[workshop.inputs / "model.zip"]),
        pack("sd-openvino", "sd_openvino/stable_diffusion_handler.py", openvino, [unet], "no-archive"),
        pack(
            "diffusion_fast",
            "diffusion_fast/diffusion_fast_handler.py",
            fast,
            ["diffusion_fast/utils.py"],
            "no-archive",
        ),
    ]


def services(workshop: Workshop) -> list[str]:
    echo, echo_2 = workshop.pack("echo", "service/echo_service.py"), "echo=echo_2.mar"
    workshop.store.joinpath("echo.mar").rename(workshop.store / "echo_1.mar")
    workshop.pack("echo", "service/echo_service", version="2.0")
    workshop.store.joinpath("echo.mar").rename(workshop.store / "echo_2.mar")
    return [
        echo.replace("echo.mar", "echo_1.mar"),
        echo_2,
        workshop.pack("requests", "service/echo_service:describe_requests", archive_format="tgz"),
        old_archive(workshop.store / "old.mar"),
    ]


def old_archive(path: Path) -> str:
    """Made by hand as of the first versions: keys that no archiver writes any more, no date, no archiver's version."""
    manifest = {
        "runtime": "python",
        "description": "from long ago",
        "modelServerVersion": "1.0",
        "implementationVersion": "1.0",
        "specificationVersion": "1.0",
        "model": {
            "modelName": "old",
            "modelVersion": "1.11",
            "handler": "echo_service:describe_requests",
            "extensions": [],
        },
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.write(ROWS / "service/echo_service.py", "echo_service.py")
    return f"old={path.name}"


# --- sound ---


def test_sound_words_and_labels_in_one_form(server: Server) -> None:
    def ask(sound: bytes, script: str, labels: str) -> str:
        form = {"data": ("video.wav", sound), "script": (None, script), "labels": (None, labels)}
        return server.predict("MMF_activity_recognition_v2", None, files=form).text

    assert ask(tone(30000), "no", "shouting,talking,sleeping") == "shouting"
    assert ask(tone(30000), "no", "talking,sleeping") == "talking"
    assert ask(tone(300), "one two three", "shouting,talking,sleeping") == "sleeping"
    assert "requirements.txt is not installed" in server.log_text()


def test_a_wave_file_is_transcribed_by_a_class_without_base(server: Server) -> None:
    loud = tone(*(letter * 1024 for letter in LETTERS))
    raw = server.predict("rnnt", loud, headers={"Content-Type": "audio/wav"})
    form = server.predict("rnnt", None, files={"data": ("sample.wav", loud, "audio/wav")})
    assert [raw.text, form.text] == ["cat", "cat"]


def test_speech_to_text_with_a_vocabulary_file(server: Server, workshop: Workshop) -> None:
    amplitudes = (20000, 300, 9000, 31000)
    samples = torch.tensor([sign * each for each in amplitudes for _ in range(200) for sign in (1, -1)]) / 32768
    values = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
    folder = workshop.inputs / "wav2vec2"
    with torch.no_grad():
        ids = load_pretrained(Wav2Vec2ForCTC, folder)(values[None]).logits[0].argmax(-1).tolist()
    heard = "".join(SOUNDS[token] for token, _ in itertools.groupby(ids) if SOUNDS[token] != "<pad>")
    assert "A" in heard
    assert server.predict("Wav2Vec2", tone(*amplitudes)).text.replace(" ", "") == heard.replace("|", "")


def test_a_text_is_spoken(server: Server) -> None:
    answer = server.predict("SpeechT5-TTS", b"hello", stream=True)
    expected = torch.cat([vocoder()[ord(letter) % 8] for letter in "hello"]) * 0.5
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (16_000, 100)
        found = torch.frombuffer(bytearray(sound.readframes(100)), dtype=torch.int16)
    assert found.tolist() == (expected * 32767).round().int().tolist()


# --- tables ---


def test_recommendations_from_json_and_its_text(server: Server) -> None:
    network: Any = load_network("torchrec/dlrm.py", "DLRM")
    bag = network.embeddings.weight[[1, 4, 9]].sum(0)
    score = torch.sigmoid(network.over(torch.cat([torch.tensor([0.5, -1.0, 2.0]), bag]))).item()
    body = json.dumps(ONE_RECOMMENDATION)
    calls = [lambda headers=headers: server.predict("dlrm", body, headers=headers) for headers in ({}, JSON, TEXT)]
    for answer in together(*calls):
        assert answer.json() == {"score": pytest.approx(score, abs=1e-5)}


def test_a_model_without_torch_takes_csv_and_json(server: Server) -> None:
    row = [5.1, 3.5, 4.9, 1.4]
    # The stumps vote by hand: 1, 1, 2, 1.
    expected = {"setosa": 0.0, "versicolor": 0.75, "virginica": 0.25}
    csv = ",".join(map(str, row))
    answers = [
        server.predict("xgb_iris", csv),
        server.predict("xgb_iris", csv, headers=TEXT),
        server.predict("xgb_iris", json.dumps(row), headers=JSON),
        server.predict("xgb_iris", None, files={"data": ("iris.csv", csv, "text/csv")}),
    ]
    assert [answer.json() for answer in answers] == [expected] * 4


# --- generated images ---


def test_an_answer_of_many_numbers(server: Server) -> None:
    answer = server.predict("stable-diffusion", "a cat")
    assert 6_553_500 < len(answer.content) < MAX_RESPONSE_SIZE
    assert answer.json() == [[COLOURS[1].tolist()] * 420] * 420
    assert answer.text.startswith("[\n  [\n    [\n      0,\n")


def test_a_backend_is_checked_by_its_name(server: Server) -> None:
    body = json.dumps({"prompt": "abcd", "guidance_scale": 3.0})
    answer = server.predict("sd-openvino", body, headers=JSON)
    assert answer.json() == {"latents": [[13.5, 13.5], [13.5, 13.5]], "backend_is_valid": True}


def test_a_python_file_beside_the_handler(server: Server) -> None:
    answer = server.predict("diffusion_fast", "a dog")
    image = Image.open(io.BytesIO(answer.content))
    assert (image.size, image.getpixel((3, 3))) == ((8, 8), 25)


# --- functions ---


def test_versions_of_a_handler_that_is_a_function(server: Server) -> None:
    assert [server.predict(path, b"hi").text for path in ("echo/1.0", "echo/2.0")] == ["hi 1.0", "hi 2.0"]
    assert server.predict("echo", b"hi").text == "hi 1.0"
    assert server.manage("PUT", "models/echo/2.0/set-default").status_code == 200
    assert server.predict("echo", b"hi").text == "hi 2.0"


@pytest.mark.parametrize(
    ("name", "version", "keys"),
    [
        ("requests", "1.0", ["archiverVersion", "createdOn", "model", "runtime"]),
        (
            "old",
            "1.11",
            ["description", "implementationVersion", "model", "modelServerVersion", "runtime", "specificationVersion"],
        ),
    ],
)
def test_what_a_function_learns_and_sets(server: Server, name: str, version: str, keys: list[str]) -> None:
    answer = server.predict(f"{name}/{version}/a/b", b"x", headers={"User-Agent": "curl"})
    assert (answer.status_code, answer.reason) == (202, "Accepted by the handler")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Handled-By"] == name
    assert answer.json() == {
        "id": True,
        "agent": "curl",
        "gpu": None,
        "batch_size": 1,
        "server": "MMS",
        "url_path": "a/b",
        "manifest": keys,
    }
