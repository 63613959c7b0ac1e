"""Every byte of the data counts: a damaged data file or cache is noticed, and not loaded."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lookalike
import pytest
from conftest import Answer, runs_in
from numpy.random import PCG64, Generator

from pipeline.data import cifar100, cifar100_files
from pipeline.errors import InputError

pytestmark = pytest.mark.usefixtures("news")
ARRAYS = lookalike.draw()
# How the data may lie in `data`; flat is without the files' folder, as a browser saves them.
LAYOUTS = ("unpacked", "flat unpacked", "archive", "parquet", "flat parquet")

Contents = dict[Path, bytes]


class World(NamedTuple):
    """The look-alike in a working directory for each layout, which is called like it.

    layouts: the data files of each, relative to it. cache: the files of the cache, which is not
    there at first. unpickled: what `pickle.loads` was given.
    """

    root: Path
    layouts: dict[str, Contents]
    cache: Contents
    unpickled: list[bytes]

    @property
    def targets(self) -> list[tuple[str, Contents, Path]]:
        """Every file: the layout to work in, the files that it belongs to, and its path."""
        groups = [*self.layouts.items(), ("unpacked", self.cache)]
        return [(layout, files, path) for layout, files in groups for path in files]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lookalike.write_every_form(tmp_path / "forms", ARRAYS)
    lookalike.trust(monkeypatch, tmp_path / "forms", **ARRAYS)
    forms = dict(zip(("unpacked", "archive", "parquet"), cifar100_files.FORMS, strict=True))
    layouts: dict[str, Contents] = {}
    for layout in LAYOUTS:
        layouts[layout] = {}
        for file in forms[layout.removeprefix("flat ")].files:
            path = Path("data", Path(file.path).name if "flat" in layout else file.path)
            layouts[layout][path] = (tmp_path / "forms" / file.path).read_bytes()
            (tmp_path / layout / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / layout / path).write_bytes(layouts[layout][path])
        monkeypatch.chdir(tmp_path / layout)
        assert is_loaded()  # undamaged, it would be
        cache = {path: path.read_bytes() for path in sorted(cifar100.array_folder().iterdir())}
        for path in cache:
            path.unlink()
    unpickled: list[bytes] = []
    loads = pickle.loads

    def recorded(content: bytes, *, encoding: str) -> object:
        unpickled.append(content)
        return loads(content, encoding=encoding)

    monkeypatch.setattr(pickle, "loads", recorded)
    return World(tmp_path, layouts, cache, unpickled)


def is_loaded() -> bool:
    return lookalike.is_loaded(Path("auto"), ARRAYS)


def refusal() -> str:
    try:
        cifar100.load()
    except InputError as error:
        return str(error)
    return "not refused"


def write(contents: Contents) -> None:
    for path, content in contents.items():
        path.write_bytes(content)


def flipped(content: bytes, random: Generator) -> bytes:
    changed = bytearray(content)
    changed[random.integers(len(content))] ^= int(random.integers(1, 256))
    return bytes(changed)


def truncated(content: bytes, random: Generator) -> bytes:
    lengths = 0, int(random.integers(len(content))), len(content) - 1
    return content[: lengths[random.integers(3)]]


def extended(content: bytes, random: Generator) -> bytes:
    return content + random.bytes(int(random.integers(1, 1000)))


def with_chunks_exchanged(content: bytes, random: Generator) -> bytes:
    changed = content
    while changed == content:
        a, b, c, d = sorted(random.integers(len(content) + 1, size=4))
        changed = content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    return changed


def swapped(world: World, files: Contents, path: Path, way: int, random: Generator) -> Contents:
    """Exchange two files of a layout, put another form's in the place, or exchange two chunks."""
    partners = [other for other in files if other != path]
    if way == 0 and partners:
        return {path: files[partners[0]], partners[0]: files[path]}
    if way == 1:
        others = sorted({group[other] for _, group, other in world.targets} - {files[path]})
        return {path: others[random.integers(len(others))]}
    return {path: with_chunks_exchanged(files[path], random)}


DAMAGES = {"byte flips": flipped, "truncations": truncated, "extensions": extended}


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("byte flips", 44),  # there are eleven files, which take turns
        ("truncations", 22),
        ("extensions", 11),
        ("swaps", 33),
        pytest.param("byte flips", 1_000, marks=pytest.mark.thorough),
        pytest.param("truncations", 200, marks=pytest.mark.thorough),
        pytest.param("extensions", 100, marks=pytest.mark.thorough),
        pytest.param("swaps", 200, marks=pytest.mark.thorough),
    ],
)
def test_damage_is_noticed_by_name_and_nothing_damaged_is_loaded_or_unpickled(
    kind: str,
    count: int,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tally: Callable[[str, int], None],
) -> None:
    random = Generator(PCG64(count))
    for number in range(count):
        turn, index = divmod(number, len(world.targets))
        layout, files, path = world.targets[index]
        if kind == "swaps":
            changed = swapped(world, files, path, turn % 3, random)
        else:
            changed = {path: DAMAGES[kind](files[path], random)}
        assert all(changed[p] != files[p] for p in changed)
        case = f"{kind} {number} in {layout}: {[str(p) for p in changed]}"
        named = tuple(f"{p} is truncated or altered" for p in changed)
        monkeypatch.chdir(world.root / layout)
        world.unpickled.clear()
        capsys.readouterr()
        if files is world.cache:
            write(world.cache | changed)
            assert is_loaded(), case
            said = capsys.readouterr().err
            assert said.startswith(named), f"{case}: {said}"
            assert said.count("\n") == 1
            assert world.unpickled == list(world.layouts["unpacked"].values()), case
            assert {p: p.read_bytes() for p in world.cache} == world.cache, case  # recreated
            for p in world.cache:
                p.unlink()
        else:
            write(changed)
            said = refusal()
            assert said.startswith(named), f"{case}: {said}"
            assert said.endswith("to have it fetched again")
            assert world.unpickled == [], case
            assert not any(p.exists() for p in world.cache), case
            write(files)
    tally(f"{kind} refused", count)


@pytest.mark.parametrize("command", [["data"], ["data", "--check"]])
def test_a_command_refuses_damage_in_one_line(
    command: list[str],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: Callable[..., Answer],
) -> None:
    for layout, files, path in world.targets:
        if files is not world.cache:
            monkeypatch.chdir(world.root / layout)
            path.write_bytes(flipped(files[path], Generator(PCG64(0))))
            answer = pipeline(*command)
            write(files)
            assert (answer.status, answer.out) == (2, "")
            assert answer.err.startswith(f"error: {path} is truncated or altered")
            assert answer.err.count("\n") == 1


def test_training_refuses_damage_and_leaves_no_run(
    world: World, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Answer]
) -> None:
    layout, files, path = world.targets[0]
    monkeypatch.chdir(world.root / layout)
    path.write_bytes(flipped(files[path], Generator(PCG64(0))))
    answer = pipeline("train", "--epochs", "1")
    assert answer.status == 2
    (line,) = answer.error_lines
    assert line.startswith(f"error: {path} is truncated or altered")
    assert runs_in(world.root / layout) == []


def test_check_refuses_a_damaged_cache_which_loading_recreates(
    world: World, monkeypatch: pytest.MonkeyPatch, pipeline: Callable[..., Answer]
) -> None:
    monkeypatch.chdir(world.root / "unpacked")
    for path, content in world.cache.items():
        write(world.cache | {path: flipped(content, Generator(PCG64(0)))})
        answer = pipeline("data", "--check")
        assert (answer.status, answer.out) == (2, "")
        (line,) = answer.error_lines
        assert line.startswith(f"error: {path} is truncated or altered")
        assert line.endswith("loading the data recreates it")
        assert pipeline("data").status == 0
        assert pipeline("data", "--check").out.endswith(f"{path.parent}: verified\n")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_changes_after_its_checksum_is_not_read_again(
    layout: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.root / layout)
    files, sha256 = world.layouts[layout], hashlib.sha256

    def and_change(content: bytes) -> object:
        write({path: b"changed" for path in files if files[path] == content})
        return sha256(content)

    monkeypatch.setattr(hashlib, "sha256", and_change)
    assert is_loaded()
    assert {path.read_bytes() for path in files} == {b"changed"}
