"""A small data set in every form in which CIFAR-100 comes, and a server that plays its sources."""

import hashlib
import io
import pickle
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from pipeline.data import cifar100, cifar100_files
from pipeline.data.dataset import Split
from pipeline.data.fetching import sources
from pipeline.data.fetching.sources import File

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # images and fine labels, by the file's name


def draw(train: int = 200, test: int = 100) -> Arrays:
    """Draw random images."""
    generator = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[name] = images, generator.permutation(np.arange(count) % 100)
    return arrays


def write_unpacked(root: Path, arrays: Arrays) -> None:
    """Write the files of the unpacked archive."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in arrays.items():
        content: dict[str, Any] = {
            "data": images.transpose(0, 3, 1, 2).reshape(len(images), 3072),
            "fine_labels": labels.tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content))


def write_archive(root: Path, unpacked: Path) -> None:
    """Pack the folder in `unpacked`, and a member that wants to lie outside."""
    with tarfile.open(root / "cifar-100-python.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(unpacked / "cifar-100-python", "cifar-100-python")
        archive.add(unpacked / "cifar-100-python" / "test", "../escaped")


def write_parquet(root: Path, arrays: Arrays) -> None:
    """Write what the Hub has: an image is a struct of PNG bytes and a path."""
    (root / "cifar100").mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in arrays.items():
        encoded = []
        for image in images:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png", compress_level=0)
            encoded.append({"bytes": png.getvalue(), "path": None})
        table = pyarrow.table({"img": encoded, "fine_label": labels, "coarse_label": labels % 20})
        path = root / "cifar100" / f"{name}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table, path)


def write_every_form(root: Path, arrays: Arrays) -> None:
    """Write the unpacked files, the archive and the parquet files."""
    write_unpacked(root, arrays)
    write_archive(root, root)
    write_parquet(root, arrays)


def known(root: Path, files: tuple[File, ...]) -> tuple[File, ...]:
    """The files with the sizes and checksums that they have in `root`."""
    contents = [(file.path, (root / file.path).read_bytes()) for file in files]
    return tuple(File(p, len(c), hashlib.sha256(c).hexdigest()) for p, c in contents)


def trust(monkeypatch: pytest.MonkeyPatch, root: Path, **arrays: Any) -> None:
    """Make the files in `root` the known ones, in every form; with `arrays`, the known images."""
    forms = []
    for name, form in zip(("UNPACKED", "ARCHIVE", "PARQUET"), cifar100_files.FORMS, strict=True):
        files = known(root, form.files)
        for module in (cifar100, cifar100_files, sources):
            monkeypatch.setattr(module, name, files, raising=False)
        forms.append(form._replace(files=files))
    monkeypatch.setattr(cifar100_files, "FORMS", tuple(forms))
    for name, split in (("train", "training"), ("test", "validation")):
        if name in arrays:
            images, labels = (torch.from_numpy(array) for array in arrays[name])
            monkeypatch.setitem(cifar100_files.DIGESTS, split, Split(images, labels).digest)


def is_loaded(root: Path, arrays: Arrays) -> bool:
    """Whether CIFAR-100 is loaded from `root`, and is these arrays."""
    data = cifar100.load(str(root))
    return all(
        np.array_equal(split.images.numpy(), images) and split.labels.tolist() == labels.tolist()
        for split, (images, labels) in zip(
            (data.training, data.validation), arrays.values(), strict=True
        )
    )


class Handler(BaseHTTPRequestHandler):
    """Answers `/<fault>/<path>` with a file of `server.root`, in the way of the fault."""

    server: "Server"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers.get("Range")))
        _, fault, path = urlparse(self.path).path.split("/", 2)
        file = self.server.root / path
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"/healthy/{path}")
            self.end_headers()
            return
        if fault.isdigit() or not file.exists():
            self.send_error(int(fault) if fault.isdigit() else 404)
            return
        content = bytearray(file.read_bytes())
        if fault == "page":
            content = bytearray(b"<html>We are sorry.</html>")
        if fault == "corrupted":
            content[len(content) // 2] ^= 1
        if fault == "truncated":
            content = content[:-1]
        start, wanted = 0, self.headers.get("Range")
        if wanted and fault != "no-range":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first)
            total = len(content)
            content = content[start : int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
        else:
            self.send_response(200)
        if fault != "endless":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "resets":  # ten places in a file
            content = content[: -(-file.stat().st_size // 11)]
        if fault in ("stalled", "cut"):
            content = content[: len(content) // 2]
        if fault == "slow":
            for index in range(0, len(content), 30_000):
                self.wfile.write(content[index : index + 30_000])
                time.sleep(0.05)
            return
        self.wfile.write(content)
        while fault == "endless":
            self.wfile.write(content)
        if fault == "stalled":
            self.server.stopped.wait()
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """Serves the files in `root` on loopback; notes path and Range of every request for a file."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[tuple[str, str | None]] = []
        self.stopped = Event()

    def handle_error(self, *_: object) -> None:
        pass

    def address(self, fault: str = "healthy") -> str:
        """The base address under which the files come in the way of `fault`."""
        return f"http://127.0.0.1:{self.server_address[1]}/{fault}/"


@contextmanager
def serve(root: Path) -> Iterator[Server]:
    """Run a Server."""
    server = Server(root)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
