"""Fetch verified files from the first source that delivers them.

Uses requests, which MLflow depends on and which obeys proxy settings: torchvision and pooch can't
resume a broken download, and huggingface_hub knows only one of the sources.
"""

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import url2pathname

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm
from urllib3.exceptions import HTTPError, ReadTimeoutError

from pipeline.config import APPLICATION
from pipeline.data.fetching.sources import File, Source
from pipeline.errors import MachineError

log = logging.getLogger(__name__)

# Seconds. A user without a network should know within 10, of which startup takes 5.
ANSWER_SECONDS = 3
STALL_SECONDS = 15  # without a byte
SLOW_SECONDS = 10  # at less than LEAST_SPEED
LEAST_SPEED = 300_000  # bytes per second; CIFAR-100's own server gives 50,000 to 80,000
FRUITLESS_TRIES = 3  # in a row, without a byte
CHUNK = 1 << 14
SAMPLE_BYTES = 1 << 19
HEADERS = {"User-Agent": APPLICATION, "Accept-Encoding": "identity"}


class SourceError(Exception):
    """A source has failed; the message says what is wrong with it."""


def download(sources: Sequence[Source], root: Path, instead: str = "") -> None:
    """Fetch into `root` the files of the first source that works.

    instead: what needs no download, for the messages. Reports to stderr. Raises a one-line
    MachineError if every source fails.
    """
    answering = reachable(sources, instead)
    troubles = [f"{source.name} does not answer" for source in sources if source not in answering]
    for source in answering:
        last = source is answering[-1]
        try:
            for file in source.files:
                fetch(source, file, root, 0 if last else LEAST_SPEED)
            return
        except OSError as error:
            raise MachineError(f"cannot write to {root.absolute()}: {error.strerror}") from None
        except SourceError as trouble:
            troubles.append(f"{source.name} {trouble}")
            if not last:
                log.warning(f"{source.name} {trouble}; trying the next source")
    remedies = ["put it there by hand (docs/data.md)", "name a source by PIPELINE_DATA_SOURCE"]
    remedies += [f"use {instead}, which needs no download"] if instead else []
    raise MachineError(
        f"CIFAR-100 is not in {root.absolute()} and no source delivers it: {'; '.join(troubles)};"
        f" {', or '.join([', '.join(remedies[:-1]), remedies[-1]])}"
    )


def reachable(sources: Sequence[Source], instead: str = "") -> list[Source]:
    """Return the sources whose server responds within ANSWER_SECONDS, asked in parallel."""
    names = ", ".join(dict.fromkeys(source.name for source in sources))
    hint = f" ({instead} needs no download)" if instead else ""
    log.warning(f"looking for CIFAR-100: asking {names}, for up to {ANSWER_SECONDS} s{hint}")

    def ask(source: Source) -> bool:
        if source.address.startswith("file:"):
            return True
        try:
            address = source.address + source.files[0].path
            requests.head(address, timeout=ANSWER_SECONDS, headers=HEADERS)
        except requests.RequestException:
            return False
        return True

    # requests' timeout does not cover DNS lookups, so threads are not joined beyond the deadline.
    answers: dict[Source, bool] = {}
    threads = [
        threading.Thread(target=lambda s=source: answers.update({s: ask(s)}), daemon=True)
        for source in sources
    ]
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [source for source in sources if answers.get(source)]


def describe(sources: Sequence[Source]) -> list[str]:
    """Return a line for each source: its address, size, and estimated download time.

    Speed is measured on the first SAMPLE_BYTES.
    """
    answering, lines = reachable(sources), []
    for source in sources:
        cost = "does not answer"
        if source.address.startswith("file:"):
            cost = "on this machine"
        elif source in answering:
            url = source.address + source.files[0].path
            headers = HEADERS | {"Range": f"bytes=0-{SAMPLE_BYTES - 1}"}
            try:
                started = time.monotonic()
                with requests.get(
                    url, headers=headers, stream=True, timeout=(ANSWER_SECONDS, STALL_SECONDS)
                ) as answer:
                    answer.raise_for_status()
                    received = len(answer.raw.read(SAMPLE_BYTES))
                speed = received / (time.monotonic() - started)
                cost = f"about {source.size / speed:.0f} s at {speed / 1e6:.1f} MB/s"
            except (requests.RequestException, HTTPError) as error:
                cost = f"fails ({type(error).__name__})"
        lines.append(f"{source.name}: {source.size / 1e6:.0f} MB, {cost}\n  {source.address}")
    return lines


def fetch(source: Source, file: File, root: Path, least_speed: float) -> None:
    """Fetch one file to `root / file.path`, continuing what an earlier call left.

    It is named `….part` until it is verified. One process downloads while any others wait.
    Raises SourceError if the source does not deliver exactly this file.
    """
    target = root / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    lock = FileLock(target.with_name(target.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning(f"another process fetches {target}; waiting for it")
        lock.acquire()
    with lock:
        if target.exists() and sha256(target) == file.sha256:
            return
        tries = 2 if part.exists() else 1  # its beginning may come from elsewhere: start over
        for _ in range(tries):
            _transfer(source.address + file.path, part, file, source.name, least_speed)
            if sha256(part) == file.sha256:
                part.replace(target)
                return
            part.unlink()
        raise SourceError("sends different data (wrong sha256)")


def sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _transfer(url: str, part: Path, file: File, name: str, least_speed: float) -> None:
    """Append to `part` until it has the file's size, resuming after broken connections."""
    if url.startswith("file:"):
        try:
            # Not urlparse: a folder's name may hold a # or a ?, and a file has no query.
            shutil.copyfile(url2pathname(url.removeprefix("file://")), part)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: %00 in the path
            raise SourceError(f"has no {file.path}") from None
        return
    fruitless = 0
    have = part.stat().st_size if part.exists() else 0
    if have > file.size:
        part.unlink()
        have = 0
    what = f"{part.stem} from {name}"
    with tqdm(
        total=file.size, initial=have, unit="B", unit_scale=True, desc=what, disable=None
    ) as bar:
        if bar.disable:  # no terminal
            log.warning(f"fetching {what}, {file.size / 1e6:.0f} MB")
        while have < file.size:
            trouble = _receive(url, part, file, have, bar, least_speed)
            now = part.stat().st_size if part.exists() else 0
            fruitless = fruitless + 1 if now <= have else 0
            have = now
            # If a faster source may remain, wait out only one stall.
            patience = fruitless < FRUITLESS_TRIES and not (least_speed and trouble == "stalls")
            if have < file.size and not patience:
                raise SourceError(trouble)


def _receive(url: str, part: Path, file: File, have: int, bar: tqdm, least_speed: float) -> str:
    """Append one response. Returns why it ended; raises SourceError if retrying is no use."""
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(ANSWER_SECONDS, STALL_SECONDS)
        ) as answer:
            if answer.status_code not in (200, 206):
                raise SourceError(f"answers {answer.status_code} {answer.reason}")
            continued = answer.status_code == 206
            if (
                continued
                and answer.headers.get("Content-Range", "").split("-")[0] != f"bytes {have}"
            ):
                raise SourceError("continues at the wrong position")
            length = answer.headers.get("Content-Length")
            if length and int(length) != file.size - (have if continued else 0):
                raise SourceError(f"sends {int(length):,} bytes where {file.size:,} are expected")
            if not continued:  # the server can't resume, so start over
                bar.update(-bar.n)
            since, received = time.monotonic(), 0
            with part.open("ab" if continued else "wb") as out:
                for chunk in answer.iter_content(CHUNK):
                    tenths = out.tell() * 10 // file.size
                    out.write(chunk)
                    if out.tell() > file.size:
                        raise SourceError("sends more bytes than the file has")
                    bar.update(len(chunk))
                    if bar.disable and out.tell() * 10 // file.size > tenths:
                        log.warning(f"{out.tell() / 1e6:.0f} of {file.size / 1e6:.0f} MB")
                    received += len(chunk)
                    passed = time.monotonic() - since
                    if passed > SLOW_SECONDS:
                        if received / passed < least_speed:
                            raise SourceError(f"is slow ({received / passed / 1000:.0f} kB/s)")
                        since, received = time.monotonic(), 0
        return "breaks off"
    except requests.Timeout:
        return "stalls"
    except requests.RequestException as error:
        stalled = error.args and isinstance(error.args[0], ReadTimeoutError)
        return "stalls" if stalled else f"breaks off ({type(error).__name__})"
