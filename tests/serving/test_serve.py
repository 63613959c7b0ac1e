"""`serve` answers over HTTP as `predict` does, follows an alias, and ends when it is told to."""

import base64
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import mlflow
import numpy as np
import psutil
import pytest
import requests
from conftest import TINY, Answer, Forked, drawn_data, free_port, run_forked, runs_in
from PIL import Image

from pipeline.data.dataset import ImageDataset

MODEL = "models:/synthetic-cnn@base"


class Server(NamedTuple):
    """A process that serves, and its address."""

    process: Forked
    address: str

    def post(self, path: str, body: bytes, kind: str | None = None) -> requests.Response:
        headers = {} if kind is None else {"Content-Type": kind}
        return requests.post(self.address + path, body, headers=headers, timeout=60)

    def end(self) -> tuple[str, str]:
        """Send SIGTERM; return what it printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    port = free_port()
    process = Forked(folder, "pipeline", "serve", "--model", MODEL, "--port", str(port), *options)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                requests.get(f"{address}/health", timeout=5)
                break
            except requests.ConnectionError:
                assert process.poll() is None, process.communicate()
                time.sleep(0.1)
        yield Server(process, address)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store has two versions of a model; the alias is at the second."""
    folder = tmp_path_factory.mktemp("served models")
    for seed in ("0", "1"):
        answer = run_forked(folder, "pipeline", "train", *TINY, "--seed", seed)
        assert answer.status == 0, answer.err
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    client.set_registered_model_alias("synthetic-cnn", "base", "2")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, np.ndarray]:
    """The probabilities of the first 40 drawn images, by version."""
    images = drawn().validation.images[:40].numpy()
    client, found = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db"), {}
    for version in ("1", "2"):
        files = client.get_model_version_download_uri("synthetic-cnn", version)
        found[version] = np.asarray(mlflow.pyfunc.load_model(files).predict(images))
    return found


@cache
def drawn() -> ImageDataset:
    """Loaded once, before there are threads: several can't load an ablation at a time."""
    return drawn_data()


def png(number: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(drawn().validation.images[number].numpy()).save(file, kind)
    return file.getvalue()


def as_json(*images: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(one).decode() for one in images]}).encode()


def check(prediction: list[dict[str, Any]], probabilities: np.ndarray, top: int = 5) -> None:
    """Assert that a prediction holds the `top` probabilities, of the right classes, in order."""
    names = drawn().class_names
    assert len(prediction) == top
    found = [guess["probability"] for guess in prediction]
    assert found == pytest.approx(np.sort(probabilities)[::-1][:top], abs=1e-5)
    for guess in prediction:
        label = names.index(guess["class"])
        assert guess["probability"] == pytest.approx(float(probabilities[label]), abs=1e-5)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", None])
def test_an_image_is_sent_as_it_is(
    server: Server, folder: Path, expected: dict[str, np.ndarray], kind: str | None
) -> None:
    answer = server.post("/predict", png(3), kind)
    assert answer.status_code == 200
    found = answer.json()
    newest = runs_in(folder)[0].info.run_id
    assert found["model"] == {"name": "synthetic-cnn", "version": "2", "run_id": newest}
    (prediction,) = found["predictions"]
    check(prediction, expected["2"][3])


@pytest.mark.parametrize("top", [1, 7, 100, 1000])
def test_several_images_are_sent_as_base64(
    server: Server, expected: dict[str, np.ndarray], top: int
) -> None:
    body = as_json(*(png(number, "BMP") for number in range(40)))
    answer = server.post(f"/predict?top={top}", body, "application/json; charset=utf-8")
    assert answer.status_code == 200
    for prediction, probabilities in zip(answer.json()["predictions"], expected["2"], strict=True):
        check(prediction, probabilities, min(top, 100))


def form(*files: tuple[str, str | None, bytes]) -> bytes:
    """A form as curl sends it: fields with a name, a file's name or None, and content."""
    parts = []
    for name, file, content in files:
        of_file = "" if file is None else f'; filename="{file}"\r\nContent-Type: image/png'
        head = f'Content-Disposition: form-data; name="{name}"{of_file}'
        parts.append(b"--x\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join(parts) + b"--x--\r\n"


FORM = "multipart/form-data; boundary=x"


def test_a_form_may_have_files_in_fields_of_any_name(
    server: Server, expected: dict[str, np.ndarray]
) -> None:
    encoded = base64.encodebytes(png(4))  # with line breaks
    body = form(
        ("image", "cat.png", png(1)),
        ("image", "cat.png", png(2, "BMP")),
        ("", "é\"'.png", png(3, "TIFF")),
        ("text", None, encoded),
        ("text", None, b"data:image/png;base64," + base64.b64encode(png(5))),
        ("as text", None, png(6)),
        ("not chosen", "", b""),
    )
    for kind in (FORM, 'Multipart/Form-Data; charset=utf-8; boundary="x"'):
        answer = server.post("/predict?top=3", body, kind)
        assert answer.status_code == 200, answer.text
        found = answer.json()["predictions"]
        for number, prediction in zip((1, 2, 3, 4, 5, 6), found, strict=True):
            check(prediction, expected["2"][number], 3)
    first, only = (
        server.post("/view", body, kind) for body, kind in ((body, FORM), (png(1), "image/png"))
    )
    assert first.content == only.content


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_what_curl_sends_is_understood(server: Server, tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    Image.fromarray(random).save(tmp_path / "cat.jpg", quality=30, optimize=True)
    (tmp_path / "cat.txt").write_bytes(base64.encodebytes((tmp_path / "cat.jpg").read_bytes()))

    def curl(*options: str) -> dict[str, Any]:
        command = ["curl", "--silent", *options, f"{server.address}/predict"]
        answer: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=tmp_path))
        return answer

    whole = curl("--data-binary", "@cat.jpg")["predictions"]
    assert len(whole) == 1
    for options in (
        ["-F", "image=@cat.jpg"],
        ["-F", "image=<cat.jpg"],
        ["-F", "image=<cat.txt"],
        ["-F", "f=@cat.jpg;type=text/plain;filename=x"],
        ["-T", "cat.jpg", "-X", "POST"],
    ):
        assert curl(*options)["predictions"] == whole
    assert curl("-F", "a=@cat.jpg", "-F", "b=@cat.jpg")["predictions"] == whole * 2
    stripped = curl("-d", "@cat.jpg")
    assert "--data-binary @cat.jpg" in stripped["error"]


def test_a_jpeg_without_its_line_breaks_is_refused_though_it_can_be_read(server: Server) -> None:
    file = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    Image.fromarray(random).save(file, "JPEG", quality=30, optimize=True)
    stripped = file.getvalue().translate(None, b"\r\n")
    with Image.open(io.BytesIO(stripped)) as damaged:
        assert damaged.convert("RGB").size == (120, 120)
    answer = server.post("/predict", stripped, "application/x-www-form-urlencoded")
    assert answer.status_code == 400
    assert "has no line break: curl -d removes them; send an image's" in answer.json()["error"]


def test_a_data_url_is_read_too(server: Server, expected: dict[str, np.ndarray]) -> None:
    body = as_json(png(3)).replace(b'["', b'["data:image/png;base64,')
    check(
        server.post("/predict", body, "application/json").json()["predictions"][0], expected["2"][3]
    )


def test_concurrent_requests_get_their_own_answers(
    server: Server, expected: dict[str, np.ndarray]
) -> None:
    def ask(number: int) -> None:
        images = [number % 40, (number + 1) % 40]
        answer = server.post(
            f"/predict?top={1 + number % 5}", as_json(*map(png, images)), "application/json"
        )
        for image, prediction in zip(images, answer.json()["predictions"], strict=True):
            check(prediction, expected["2"][image], 1 + number % 5)

    with ThreadPoolExecutor(16) as clients:
        list(clients.map(ask, range(80)))


def test_the_view_is_what_the_network_sees(server: Server) -> None:
    large = io.BytesIO()
    Image.open(io.BytesIO(png(5))).resize((320, 320), Image.Resampling.NEAREST).save(large, "PNG")
    answer = server.post("/view", large.getvalue())
    assert answer.headers["content-type"] == "image/png"
    seen = np.asarray(Image.open(io.BytesIO(answer.content)))
    original = drawn().validation.images[5].numpy()
    assert seen.shape == original.shape
    assert np.abs(seen.astype(int) - original).mean() < 8


def test_health_version_and_the_api(server: Server, folder: Path) -> None:
    assert requests.get(f"{server.address}/health", timeout=60).json() == {"status": "ok"}
    assert requests.head(f"{server.address}/health", timeout=60).status_code == 200
    version = requests.get(f"{server.address}/version", timeout=60).json()
    assert version["reference"] == MODEL
    assert version["uri"] == "models:/synthetic-cnn/2"
    assert (version["image_shape"], version["num_classes"]) == ([32, 32, 3], 100)
    assert version["mlflow"] == mlflow.__version__
    page = f"/#/experiments/0/runs/{version['run_id']}?workflowType=machine_learning"
    assert version["run_page"].endswith(page)
    api = requests.get(f"{server.address}/openapi.json", timeout=60).json()
    assert set(api["paths"]) == {"/predict", "/view", "/health", "/version"}
    content = api["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"image/*", "multipart/form-data", "application/json"}
    page = requests.get(f"{server.address}/docs", timeout=60).text
    for path in api["paths"]:
        assert f" {path}</code>" in page


def test_only_this_machine_can_reach_it(server: Server) -> None:
    connections = psutil.Process(server.process.pid).net_connections("inet")
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def saved_black(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


BOMB = saved_black(10_000, 9_000)
LARGE = saved_black(3_200, 3_200)
JSON = "application/json"
PNG = png(0)
REFUSED: dict[str, tuple[int, str, bytes, str | None, str]] = {
    "no image": (400, "/predict", b"hello", "image/png", "it is not an image of these kinds: JPEG"),
    "cut off": (400, "/predict", PNG[:90], None, "the body can't be read: it is damaged"),
    "too many pixels": (400, "/predict", BOMB, None, "more than 89 million pixels"),
    "too large": (413, "/predict", bytes(16 * 2**20 + 1), None, "larger than 16 MiB; send smaller"),
    "empty": (400, "/predict", b"", None, "the body is empty; send an image's bytes as the body"),
    "wrong type": (415, "/predict", PNG, "text/html", "the content type is text/html; send an im"),
    "an encoding": (
        415,
        "/predict",
        PNG,
        "multipart/mixed; boundary=x",
        "is multipart/mixed; send",
    ),
    "no form": (400, "/predict", PNG, FORM, "the form can't be read: it is damaged; send an image"),
    "a form cut off": (
        400,
        "/predict",
        form(("a", "b", PNG))[:-6],
        FORM,
        "can't be read: it is da",
    ),
    "no boundary": (
        400,
        "/predict",
        PNG,
        "multipart/form-data",
        "lacks the boundary, which client",
    ),
    "no field": (400, "/predict", form(), FORM, "the form has no file; send an image's bytes"),
    "no file": (400, "/predict", form(("a", "", b"")), FORM, "the form has no file; send an image"),
    "empty file": (
        400,
        "/predict",
        form(("a", "b.png", b"")),
        FORM,
        "b.png can't be read: it is em",
    ),
    "empty text": (
        400,
        "/predict",
        form(("a", None, b"")),
        FORM,
        "a can't be read: it is empty; se",
    ),
    "empty base64": (400, "/predict", as_json(b""), JSON, "images.0 can't be read: it is empty"),
    "a word": (
        400,
        "/predict",
        form(("top", None, b"3")),
        FORM,
        "top can't be read: it is not an im",
    ),
    "one of a form": (
        400,
        "/predict",
        form(("a", "b.png", PNG), ("a", "b.png", b"x")),
        FORM,
        "b.png (2) can't be read: it is not an image",
    ),
    "damaged in a form": (
        400,
        "/predict",
        form(("a", "b", PNG[:90])),
        FORM,
        "b can't be read: it is d",
    ),
    "many in a form": (
        400,
        "/predict",
        form(*[("a", "b", b"x")] * 257),
        FORM,
        "the form has more than 256 fields; send an image's bytes",
    ),
    "large form": (
        413,
        "/predict",
        form(*[("a", "b", LARGE)] * 9),
        FORM,
        "together have more than 89",
    ),
    "bytes of a form": (
        413,
        "/predict",
        form(("a", "b", bytes(2**24))),
        FORM,
        "larger than 16 MiB",
    ),
    "curl's -d": (
        400,
        "/predict",
        PNG.translate(None, b"\r\n"),
        "application/x-www-form-urlencoded",
        "it is not an image of these kinds: JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF; send an image's",
    ),
    "no JSON": (400, "/predict", b"{", JSON, "Invalid JSON"),
    "other JSON": (
        400,
        "/predict",
        b"[1]",
        JSON,
        "the body: Input should be an object; send an im",
    ),
    "no images": (400, "/predict", b"{}", JSON, "images: Field required; send an image's bytes"),
    "none": (400, "/predict", as_json(), JSON, "images: List should have at least 1 item"),
    "too many": (400, "/predict", as_json(*[b"x"] * 257), JSON, "at most 256 items"),
    "another key": (400, "/predict", b'{"images": ["YQ=="], "x": 1}', JSON, "x: Extra inputs"),
    "a number": (400, "/predict", b'{"images": [1]}', JSON, "images.0: Input should be"),
    "no base64": (400, "/predict", b'{"images": ["?"]}', JSON, "images: '?' is not base64"),
    "large together": (413, "/predict", as_json(*[LARGE] * 9), JSON, "together have more than 89"),
    "one of two": (400, "/predict", as_json(PNG, b"x"), JSON, "images.1 can't be read: it is not"),
    "top": (422, "/predict?top=0", PNG, None, "top: Input should be greater than or equal to 1"),
    "top's type": (422, "/predict?top=x", PNG, None, "top: Input should be a valid integer"),
    "no page": (404, "/prediction", PNG, None, "there is no such page; POST an image to /predict"),
    "no method": (
        405,
        "/health",
        PNG,
        None,
        "POST is not possible here; POST an image to /predict",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_gets_one_line_that_says_what_is_right(server: Server, what: str) -> None:
    status, path, body, kind, reason = REFUSED[what]
    answer = server.post(path, body, kind)
    assert answer.status_code == status
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert reason in message
    assert "\n" not in message
    assert server.post("/predict", PNG).status_code == 200  # it goes on


def test_a_body_of_unknown_length_is_limited_too(server: Server) -> None:
    parts = (bytes(2**20) for _ in range(20))
    try:
        answer = requests.post(f"{server.address}/predict", parts, timeout=60)
        assert answer.status_code == 413
    except requests.ConnectionError:  # closed before all was sent
        pass
    assert server.post("/predict", PNG).status_code == 200


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--model", "models:/none@base"], 2, "no model at 'models:/none@base'"),
        (["--model", "models:/synthetic-cnn/1", "--follow"], 2, "'models:/synthetic-cnn/1' has no"),
        (["--model", MODEL, "--port", "65536"], 2, "port is 65536; it must be from 0 to 65535"),
        (
            ["--model", MODEL, "--allowed-hosts", "a.org, http://b.org"],
            2,
            "allowed_hosts has 'http://b.org'; it must be host names such as",
        ),
        (["--model", MODEL, "--host", "no host"], 2, "host is 'no host'; it must be an address"),
        (["--model", MODEL, "--port", "taken"], 1, "of 127.0.0.1 can't be used"),
    ],
)
def test_a_server_that_can_not_start_says_why_in_one_line(
    pipeline: Callable[..., Answer],
    server: Server,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    status: int,
    reason: str,
) -> None:
    monkeypatch.chdir(folder)
    taken = server.address.rsplit(":")[-1]
    answer = pipeline("serve", *(taken if option == "taken" else option for option in options))
    assert answer.status == status
    assert answer.err.count("\n") == 1
    assert reason in answer.error_lines[0]


def test_an_alias_is_followed_without_a_request_that_fails(
    folder: Path, expected: dict[str, np.ndarray]
) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    stop, versions = Event(), Counter[str]()

    def ask(server: Server) -> None:
        while not stop.is_set():
            answer = server.post("/predict", as_json(png(7), png(8)), JSON)
            assert answer.status_code == 200, answer.text
            version = answer.json()["model"]["version"]
            versions[version] += 1
            for number, prediction in zip((7, 8), answer.json()["predictions"], strict=True):
                check(prediction, expected[version][number])

    with serving(folder, "--follow") as server, ThreadPoolExecutor(4) as clients:
        asking = [clients.submit(ask, server) for _ in range(4)]
        try:
            for version in ("1", "2", "1", "2"):
                client.set_registered_model_alias("synthetic-cnn", "base", version)
                deadline = time.monotonic() + 60
                before = versions[version]
                while versions[version] < before + 5:
                    assert time.monotonic() < deadline
                    assert not [one for one in asking if one.done()]
                    time.sleep(0.1)
        finally:
            stop.set()
            client.set_registered_model_alias("synthetic-cnn", "base", "2")
        for one in asking:
            one.result()
        out, err = server.end()
        assert f"{MODEL} is models:/synthetic-cnn/1 now" in out
        assert err == ""


def test_an_altered_model_is_neither_served_nor_followed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert run_forked(copy, "pipeline", "relocate").status == 0
    client = mlflow.MlflowClient(f"sqlite:///{copy}/mlflow.db")
    files = client.get_model_version_download_uri("synthetic-cnn", "1")
    program = Path(files, "data", "model.pt2")
    original = program.read_bytes()
    try:
        program.write_bytes(original + b"x")
        with serving(copy, "--follow") as server:
            client.set_registered_model_alias("synthetic-cnn", "base", "1")
            time.sleep(6)
            assert server.post("/predict", PNG).json()["model"]["version"] == "2"
            _, err = server.end()
            (line,) = err.splitlines()
            assert line.startswith("models:/synthetic-cnn/2 is still served: the model at")
            assert "model.pt2 changed" in line
        answer = run_forked(copy, "pipeline", "serve", "--model", MODEL)
        assert answer.status == 2
        assert "model.pt2 changed" in answer.error_lines[0]
    finally:
        program.write_bytes(original)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)]
)
def test_what_has_begun_is_answered_before_it_ends(folder: Path, number: signal.Signals) -> None:
    with serving(folder) as server:

        def begin(sent: bytes) -> http.client.HTTPConnection:
            address = server.address.removeprefix("http://")
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", str(len(PNG)))
            connection.endheaders(sent)
            return connection

        for sent in (PNG[:50], PNG):  # clients that go away leave no trace
            begin(sent).close()
        slow = begin(PNG[:50])
        time.sleep(0.5)  # it is waiting for the rest
        os.kill(server.process.pid, number)
        time.sleep(1)
        with pytest.raises(requests.ConnectionError):
            server.post("/predict", PNG)
        slow.send(PNG[50:])
        answer = slow.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["predictions"]) == 1
        out, err = server.process.communicate(timeout=60)
        assert server.process.returncode == 0
        assert out.splitlines()[-1] == f"stopped by {number.name}"
        assert err == ""
