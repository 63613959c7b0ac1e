"""Measure `predict`, and `serve` against `mlflow models serve`, under load.

python -m benchmarks.inference [--seconds 60] [--rounds 3] [--output FILE]

The model is trained for one short epoch on the built-in data: its speed does not depend on what it
has learned. Both servers have all cores and share them with 16 clients, which send as fast as they
are answered. Figures are medians over the rounds, with minimum and maximum; in each round all
loads follow one another. Latencies are of all rounds together.
"""

import argparse
import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.figures import ROOT, Figures, Target, judge, origin, show, spread, target_lines
from pipeline.openmp import SHORT, SPINS

VARIANT = "dropout"  # the tutorial's last network
MODEL = f"models:/synthetic-cnn@{VARIANT}"
CLIENTS, BATCH = 16, 32
SMALL = (5_000, 64, "JPEGs of 64x64 pixels")  # how many, their side, what they are called
LARGE = (40, 3_000, "JPEGs of 3000x3000 pixels")
TARGETS = (
    Target("small JPEGs a second by predict", "at least", 1_000, ("predict", SMALL[2])),
    Target("images/s of serve to mlflow models serve", "at least", 20, ("ratio",)),
    Target("requests that failed", "at most", 0, ("errors",)),
)


class Load(NamedTuple):
    """What clients send: to which server, what, and how many images are in it."""

    name: str
    port: int
    path: str
    body: bytes
    content_type: str
    images: int


class Outcome(NamedTuple):
    """What clients got: seconds of each answer, and how many requests failed."""

    seconds: list[float]
    errors: int


def main() -> None:
    """Measure; print a table; write the figures."""
    parser = argparse.ArgumentParser(description="Measure prediction and serving.")
    parser.add_argument("--seconds", type=float, default=60, help="of each load in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file; by default none")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.seconds, options.rounds)
    print(table(figures))
    if options.output:
        options.output.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, seconds: float, rounds: int) -> Figures:
    """Train a model in `folder`, and measure."""
    shape = ["--train-images", "512", "--epochs", "1"]
    _command(folder, "train", "--dataset", "synthetic", "--variant", VARIANT, *shape)
    predicted = _predict(folder, rounds)
    ours, theirs = free_port(), free_port()
    command = ["-m", "pipeline", "serve", "--model", MODEL, "--port", str(ours)]
    mlflow = ["-m", "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local"]
    with (
        server(folder, [sys.executable, *command], ours, "/health"),
        server(folder, [sys.executable, *mlflow, "-p", str(theirs)], theirs, "/ping"),
    ):
        loads = _loads(ours, theirs)
        outcomes: dict[str, list[Outcome]] = {load.name: [] for load in loads}
        for load in loads:
            _run(load, min(seconds, 5))  # warms up
        for _ in range(rounds):
            for load in loads:
                outcomes[load.name].append(_run(load, seconds))
    rates = {
        load.name: [load.images * len(one.seconds) / seconds for one in outcomes[load.name]]
        for load in loads
    }
    batch, _, mlflow_batch = (load.name for load in loads)
    figures = {
        "date": date.today().isoformat(),
        "command": f"python -m benchmarks.inference {' '.join(sys.argv[1:])}".strip(),
        **origin(),
        "clients": CLIENTS,
        "seconds": seconds,
        "rounds": rounds,
        "predict": predicted,
        "serve": {name: _describe(rates[name], outcomes[name]) for name in rates},
        "ratio": spread([a / b for a, b in zip(rates[batch], rates[mlflow_batch], strict=True)]),
        "errors": sum(one.errors for load in loads[:2] for one in outcomes[load.name]),
    }
    return figures | {"targets": judge(TARGETS, figures)}


def _predict(folder: Path, rounds: int) -> Figures:
    """Images per second of `predict` on files of two sizes, without its start."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pipeline.models.loading import load_model\n"
        "from pipeline.models.pictures import find_pictures\n"
        "from pipeline.models.prediction import predict\n"
        f"loaded = load_model({MODEL!r}); pictures = find_pictures(sys.argv[1:], Path(), False)\n"
        "list(predict(loaded, pictures[:100], 5)); begun = time.perf_counter()\n"
        "list(predict(loaded, pictures, 5)); print(len(pictures) / (time.perf_counter() - begun))"
    )
    rates: dict[str, list[float]] = {name: [] for _, _, name in (SMALL, LARGE)}
    random = np.random.default_rng(0)
    for count, side, _ in (SMALL, LARGE):
        (folder / str(side)).mkdir()
        for number in range(count):
            # Blurred noise compresses about as well as a photograph.
            noise = random.integers(0, 256, (side // 8, side // 8, 3), np.uint8)
            picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(folder / str(side) / f"{number}.jpg", quality=90)
    for _ in range(rounds):
        for _, side, name in (SMALL, LARGE):
            answer = _python(folder, "-c", code, str(side))
            rates[name].append(float(answer.splitlines()[-1]))
    return {name: spread(values) for name, values in rates.items()}


def _loads(ours: int, theirs: int) -> list[Load]:
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 32, 32, 3), np.uint8)
    files = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    several = json.dumps({"images": [base64.b64encode(one).decode() for one in files]}).encode()
    numbers = json.dumps({"inputs": images.tolist()}).encode()
    json_type = "application/json"
    return [
        Load(f"serve, {BATCH} PNGs a request", ours, "/predict", several, json_type, BATCH),
        Load("serve, one PNG a request", ours, "/predict", files[0], "image/png", 1),
        Load(
            f"mlflow models serve, {BATCH} images a request",
            theirs,
            "/invocations",
            numbers,
            json_type,
            BATCH,
        ),
    ]


def _run(load: Load, seconds: float) -> Outcome:
    """Let all clients send for some seconds; what is answered later does not count."""
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(CLIENTS) as clients:
        parts = list(clients.map(lambda _: _client(load, end), range(CLIENTS)))
    return Outcome([s for part in parts for s in part.seconds], sum(part.errors for part in parts))


def _client(load: Load, end: float) -> Outcome:
    connection = http.client.HTTPConnection("127.0.0.1", load.port, timeout=60)
    seconds, errors = [], 0
    while (begun := time.perf_counter()) < end:
        try:
            headers = {"Content-Type": load.content_type}
            connection.request("POST", load.path, load.body, headers)
            answer = connection.getresponse()
            predictions = json.loads(answer.read())["predictions"]
            right = answer.status == 200 and len(predictions) == load.images
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            connection.close()
            right = False
        errors += not right
        if right and time.perf_counter() <= end:
            seconds.append(time.perf_counter() - begun)
    connection.close()
    return Outcome(seconds, errors)


def _describe(rates: list[float], outcomes: list[Outcome]) -> Figures:
    milliseconds = 1000 * np.array([s for one in outcomes for s in one.seconds])
    return {
        "images_per_second": spread(rates),
        "requests": len(milliseconds),
        "errors": sum(one.errors for one in outcomes),
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
    }


@contextmanager
def server(folder: Path, command: list[str], port: int, health: str) -> Iterator[None]:
    """Run a server in `folder`, once it answers at the path `health`."""
    with (folder / f"{port}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(folder),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not _answers(port, health):
            if process.poll() is not None:
                raise SystemExit(f"error: {' '.join(command)} ended")
            time.sleep(0.5)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    """Return a port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _command(folder: Path, *arguments: str) -> str:
    return _python(folder, "-m", "pipeline", *arguments)


def _python(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=_environment(folder),
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout


def _environment(folder: Path) -> dict[str, Any]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    own = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder)}
    # `mlflow models serve` starts uvicorn by name.
    own["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), keep.get("PATH", "")])
    return {SPINS: SHORT, **keep, **own}


def table(figures: Figures) -> str:
    """Format the figures."""
    lines = [f"{figures['machine']}; torch {figures['versions']['torch']}; medians (min to max)"]
    lines += ["", f"{'predict':42} {'images/s':>26}"]
    for name, rate in figures["predict"].items():
        lines.append(f"{name:42} {show(rate, ',.0f'):>26}")
    heading = f"{figures['clients']} clients, {figures['seconds']:.0f} s a round"
    lines += ["", f"{heading:42} {'images/s':>26} {'p50':>9} {'p99':>9} {'errors':>7}"]
    for name, one in figures["serve"].items():
        rate = show(one["images_per_second"], ",.0f")
        times = f"{one['p50_ms']:>6,.0f} ms {one['p99_ms']:>6,.0f} ms"
        lines.append(f"{name:42} {rate:>26} {times} {one['errors']:>7}")
    return "\n".join([*lines, "", *target_lines(figures["targets"])])


if __name__ == "__main__":
    main()
