"""What the tests share: the commands as a user runs them, and one small study to look at."""

import gc
import json
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import mlflow
import psutil
import pytest
from filelock import FileLock
from in_process import compute_once, one_by_one
from matplotlib.figure import Figure
from mlflow.entities import Run
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as ModelRegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.tracking._tracking_service import utils as tracking_utils
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from PIL import Image
from sqlalchemy.engine import make_url

from pipeline import CNNNetwork, interruption
from pipeline.__main__ import main
from pipeline.ablation.loading import load_ablation
from pipeline.config import AUTO, Config
from pipeline.data.dataset import ImageDataset
from pipeline.errors import MachineError
from pipeline.machine import GIB
from pipeline.models.trial import variants as trial
from pipeline.news import NEWS, show_news
from pipeline.runs.resolve import resolve
from pipeline.store import initialization, uploads
from pipeline.store.tags import DETAILS
from pipeline.study import forecast
from pipeline.training.history import Epoch
from pipeline.training.loop import Training
from pipeline.training.spec import RunSpec
from pipeline.upstream import create_tables

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# In a command MLflow is told so before it is imported.
logging.getLogger("mlflow").setLevel(logging.WARNING)

compute_once()


@cache
def _tables() -> bytes:
    """A store without runs. Making one takes a second, and hundreds of tests begin with one."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        create_tables(f"sqlite:///{database}")
        return database.read_bytes()


def _copy_tables(database_uri: str) -> None:
    Path(str(make_url(database_uri).database)).write_bytes(_tables())


initialization.create_tables = _copy_tables  # type: ignore[attr-defined]

# A step or two of each variant are enough for a time that nobody waits for.
forecast.PATIENCE = 0.0

# Each takes a second; in one process a variant of the tutorial's need not be tried again.
_try_network = trial._try_network
_tried: set[tuple[object, ...]] = set()


def _try_once(spec: RunSpec) -> None:
    data, is_own = spec.data, spec.ablation.source != AUTO
    last_alone = len(data.training) % spec.config.batch_size == 1
    what = (spec.variant, data.image_shape, data.num_classes, last_alone)
    if is_own or what not in _tried:
        _try_network(spec)
        _tried.update(() if is_own else {what})


trial._try_network = _try_once

# The tutorial's: their settings, by name.
VARIANTS = load_ablation(AUTO).variants


def network_of(variant: str) -> CNNNetwork:
    """A new network of the tutorial's ablation."""
    return CNNNetwork(**VARIANTS[variant])  # type: ignore[arg-type]


def drawn_data(
    train_images: int = 0, validation: str = "test", holdout_seed: int = 0
) -> ImageDataset:
    """The built-in data set."""
    config = Config(
        dataset="synthetic",
        train_images=train_images,
        validation=validation,
        holdout_seed=holdout_seed,
    )
    return resolve(config).data


ROOT = Path(__file__).parents[1]
# The real CIFAR-100, for the tests that can use it.
REAL_DATA = Path(os.environ.get("PIPELINE_DATA_DIR", ROOT.parent / "shared" / "data"))
needs_real_data = pytest.mark.skipif(
    not (REAL_DATA / "cifar-100-python").exists(), reason="no CIFAR-100 in $PIPELINE_DATA_DIR"
)
BIN = Path(sys.executable).parent
PATIENCE = 60_000  # milliseconds until a page shows what it should
# For tests that need a run, whatever it learns.
TINY = ["--dataset", "synthetic", "--train-images", "300", "--epochs", "1"]
# The same on a data set that is small itself, so that aliases move.
WHOLE = ["--ablation", str(ROOT / "tests" / "small.py"), "--epochs", "1"]
# Small enough for seconds, large enough that the network learns something.
SMALL = ["--dataset", "synthetic", "--train-images", "600", "--epochs", "2"]


# A file system in memory, if there is one, and the room that tests need in it.
MEMORY, ROOM = Path("/dev/shm"), 2 * GIB


def pytest_configure() -> None:
    """Keep the tests' folders in memory: a commit of SQLite waits 18 ms for a disk, and 0.1 there.

    `--basetemp` and $PYTEST_DEBUG_TEMPROOT still say where else.
    """
    if MEMORY.is_dir() and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        free = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available - 4 * GIB)
        if free > ROOM:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# They take minutes together, and begin first: else the last one keeps a single process busy.
LONG_FILES = ("test_readme", "test_reproduce", "test_jobs", "test_project", "test_outages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of several processes that run tests none is to wait long for the others in the end."""
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


def pytest_collection_finish() -> None:
    """Spare the collector the 700,000 objects of torch and MLflow, 0.7 s each time it looks."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", help="folder for what the tests of the interface see")
    parser.addoption(
        "--only-gpu-skipped",
        action="store_true",
        help="fail if a test is skipped for any other reason than that there is no GPU",
    )


_COUNTS: dict[str, int] = {}
# What no package can bring: a GPU, the instructions of another processor, and CIFAR-100.
_MAY_BE_SKIPPED = (
    "there is no CUDA device",
    "not on this processor",
    "no bf16 here",
    "no CIFAR-100 in $PIPELINE_DATA_DIR",
)
_SKIPPED: list[str] = []


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Count what was survived, for docs/reliability.md: pytest's summary shows the sums."""

    def add(what: str, count: int) -> None:
        request.node.user_properties.append((f"tally {what}", count))

    return add


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in _MAY_BE_SKIPPED:
            _SKIPPED.append(f"{report.nodeid}: {reason}")
    if report.when == "teardown":
        for name, value in report.user_properties:
            if name.startswith("tally "):
                what = name.removeprefix("tally ")
                _COUNTS[what] = _COUNTS.get(what, 0) + int(str(value))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _SKIPPED and session.config.getoption("--only-gpu-skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _SKIPPED and terminalreporter.config.getoption("--only-gpu-skipped"):
        terminalreporter.section("skipped, but must not be")
        for line in _SKIPPED:
            terminalreporter.write_line(line)
    if _COUNTS:
        terminalreporter.section("survived")
        for what, count in sorted(_COUNTS.items()):
            terminalreporter.write_line(f"{what}: {count:,}")


class Answer(NamedTuple):
    """What a command said."""

    status: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines on stderr, without the progress bars'."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def environment(folder: Path) -> dict[str, str]:
    """A user's environment in `folder`, whose store is that of MLflow's defaults.

    Its servers run no jobs, for which they would start six processes that import MLflow.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PIPELINE_"))}
    own = {"PYTHONPATH": str(ROOT), "PWD": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    own["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    return {**kept, **own, "PATH": f"{BIN}{os.pathsep}{kept['PATH']}"}


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """Start a command in `folder`, in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run(folder: Path, *command: str) -> Answer:
    """Run a command in `folder` to its end."""
    process = start(folder, *command)
    out, err = process.communicate()
    return Answer(process.returncode, out, err)


@cache
def project_address() -> str:
    """The checkout as `mlflow run` takes it: MLflow cuts an address at a `#`, hence a link."""
    link = Path(tempfile.mkdtemp(dir=_scratch().name)) / "checkout"
    link.symlink_to(ROOT)
    return str(link)


@cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder of this process, deleted when it ends."""
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


@cache
def _killer() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "killed.py")],
        cwd=ROOT,  # not the folder of the test that needs it first, which is deleted
        env=environment(ROOT),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def run_killed(
    folder: Path, jobs: list[dict[str, Any]], variables: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Run commands in `folder` in forks of one process, killed as `killed.py` describes."""
    given = {**environment(folder), **(variables or {})}
    answers: list[dict[str, Any]] = _ask(folder=str(folder), environment=given, jobs=jobs)
    return answers


def _ask(**request: Any) -> Any:
    killer = _killer()
    assert killer.stdin
    assert killer.stdout
    try:
        print(json.dumps(request), file=killer.stdin, flush=True)
        return json.loads(killer.stdout.readline())
    except BaseException:  # a test that takes too long: its answer is not the next one's
        killer.kill()
        _killer.cache_clear()
        raise


class Forked:
    """What tests use of `subprocess.Popen`, for a process that begins as in `run_forked`."""

    returncode: int | None = None

    def __init__(self, folder: Path, program: str, *arguments: str, **variables: str) -> None:
        name = str(Path(tempfile.mkdtemp(dir=_scratch().name)) / "job")
        self.files = [Path(f"{name}.{stream}") for stream in ("out", "err")]
        job = {"program": program, "arguments": arguments, "child_processes": True}
        given = {**environment(folder), **variables}
        self.pid: int = _ask(background=name, folder=str(folder), environment=given, jobs=[job])

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask(ended=self.pid)
        return self.returncode

    def communicate(self, timeout: float = math.inf) -> tuple[str, str]:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.05)
        out, err = (file.read_text() for file in self.files)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def run_forked(folder: Path, program: str, *arguments: str, **variables: str) -> Answer:
    """Run a program in `folder` as `run` does, without the seconds that imports take.

    program: `pipeline`, `mlflow`, or `python`, whose arguments are then `-c` and code. variables:
    of the environment.
    """
    (answer,) = run_killed(folder, [{"program": program, "arguments": arguments}], variables)
    return Answer(answer["status"], answer["out"], answer["err"])


def run_project(folder: Path, *arguments: str, **variables: str) -> Answer:
    """Type `mlflow run <this checkout> --env-manager local …` in `folder`."""
    project = [project_address(), "--env-manager", "local"]
    return run_forked(folder, "mlflow", "run", *project, *arguments, **variables)


def copy_checkout(target: Path) -> None:
    """Copy the checkout as it is, without what git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def runs_in(folder: Path, kind: str | None = None) -> list[Run]:
    """All runs of the store in `folder`, the newest first."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    chosen = f"tags.kind = '{kind}'" if kind else ""
    return list(client.search_runs(experiments, filter_string=chosen))


def forget_detail(client: mlflow.MlflowClient, run_id: str, name: str) -> None:
    """Delete one of the tags of a run that are packed in one."""
    details = json.loads(client.get_run(run_id).data.tags[DETAILS])
    del details[name]
    client.set_tag(run_id, DETAILS, json.dumps(details))


def status_in_the_end(folder: Path, expected: str) -> str:
    """The status of the newest run, once it has been `expected` for a second, or 10 seconds passed.

    `mlflow run` sets FAILED when it ends; what the project does about it takes a moment.
    """
    for _ in range(20):
        time.sleep(0.5)
        if runs_in(folder)[0].info.status == expected:
            break
    time.sleep(1)
    return str(runs_in(folder)[0].info.status)


def forget_stores() -> None:
    """Begin as a new process does: MLflow keeps stores open by address, even a relative one."""
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    tracking_utils._artifact_repos_cache.clear()  # where artifacts of a run are
    for registry in (TrackingStoreRegistry, ModelRegistryStoreRegistry):
        registry._get_store_with_resolved_uri.cache_clear()
    for store in (TrackingStore, ModelRegistryStore):
        for engine in store._engine_map.values():
            engine.dispose()
        store._engine_map.clear()


@contextmanager
def restoring_news() -> Iterator[None]:
    """Show the news of a command, and of no test after it."""
    handlers, level, propagate = [*NEWS.handlers], NEWS.level, NEWS.propagate
    try:
        yield
    finally:
        NEWS.handlers[:], NEWS.propagate = handlers, propagate
        NEWS.setLevel(level)


@pytest.fixture
def news() -> Iterator[None]:
    """Show news, as a command does, to a test that calls what tells them."""
    with restoring_news():
        show_news()
        yield


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test has a folder, and so a tracking store, of its own, and leaves no run active."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "PIPELINE_")) and "SYSTEM_METRICS" not in name:
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    forget_stores()
    yield
    while mlflow.active_run():
        mlflow.end_run()


@contextmanager
def broken_cell(variant: str, seed: int, error: BaseException) -> Iterator[None]:
    """Let the training of one cell raise an error."""
    epochs = Training.epochs

    def broken(self: Training) -> Iterator[Epoch]:
        if mlflow.active_run() and (self.spec.variant, self.spec.config.seed) == (variant, seed):
            raise error
        yield from epochs(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "epochs", broken)
        yield


@contextmanager
def broken_epoch(number: int) -> Iterator[None]:
    """Let training fail in an epoch, when its loss and accuracy have been measured."""
    log = uploads.log_metrics

    def log_metrics(metrics: Mapping[str, float], epoch: int) -> None:
        log(metrics, epoch)
        if epoch == number:
            raise MachineError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "log_metrics", log_metrics)
        yield


@contextmanager
def states_of_all_epochs() -> Iterator[None]:
    """Write the state after each epoch, also of one that takes a few milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "SHARE", 0)
        yield


def run_in_process(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `python -m pipeline …` within this process; return its exit status."""
    patch.setattr(sys, "argv", ["pipeline", *arguments])
    patch.setattr(interruption, "install", lambda: None)
    patch.setenv("TQDM_DISABLE", "1")  # which a command sets itself, and no other test must see
    forget_stores()
    with restoring_news(), pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def _save_blank(_figure: Figure, file: Path | BytesIO, **_options: object) -> None:
    """Draw nothing; laying a figure out takes as long as training a tiny network."""
    Image.new("1", (1, 1)).save(file, "PNG")


@pytest.fixture
def child_processes() -> None:
    """Let studies of `pipeline` train in processes of their own, as outside of tests."""


@pytest.fixture
def pipeline(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> Callable[..., Answer]:
    """`python -m pipeline …`, within this process: torch takes seconds to import.

    Figures are made, and drawn only by commands in other processes.
    """
    monkeypatch.setattr(Figure, "savefig", _save_blank)
    if "child_processes" not in request.fixturenames:
        monkeypatch.setattr("pipeline.execution.engine.in_parallel", one_by_one)

    def command(*arguments: str) -> Answer:
        capfd.readouterr()
        status = run_in_process(monkeypatch, *arguments)
        return Answer(status, *capfd.readouterr())

    return command


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A headless Chromium."""
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on the PATH (Debian: apt install chromium)")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Study(NamedTuple):
    """A study that `mlflow run` has made in `folder`: two seeds of each variant.

    runs: by name. children: of each variant the run whose model is registered.
    """

    folder: Path
    answer: Answer
    parent: Run
    runs: dict[str, Run]
    children: dict[str, Run]

    @property
    def client(self) -> mlflow.MlflowClient:
        """Reads the study's store."""
        return mlflow.MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    def artifact(self, run: Run, path: str) -> Path:
        """Fetch an artifact of a run."""
        return Path(self.client.download_artifacts(run.info.run_id, path))


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Study:
    """What the command of `make ablation` makes of two seeds, in another folder."""
    # Of several processes that run tests one makes it for all.
    mine = tmp_path_factory.getbasetemp()
    folder = (mine if worker_id == "master" else mine.parent) / "study"
    said = folder / "answer.json"
    with FileLock(folder.with_suffix(".lock")):
        if not said.exists():
            said.write_text(json.dumps(_make_study(folder)))
    answer = Answer(*json.loads(said.read_text()))
    # A test in another process may have made the same study again by now.
    *_, parent = runs_in(folder, "study")
    runs = {run.info.run_name: run for run in runs_in(folder, "train")}
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    registered = [version.run_id for version in client.search_model_versions()]
    children = {r.data.tags["variant"]: r for r in runs.values() if r.info.run_id in registered}
    return Study(folder, answer, parent, runs, children)


def _make_study(folder: Path) -> Answer:
    folder.mkdir()
    dry_run = ["make", "--dry-run", "-C", str(ROOT), "ablation"]
    lines = subprocess.check_output(dry_run, text=True).replace("\\\n", " ").splitlines()
    (command,) = (line.split() for line in lines if " -m mlflow run " in line)
    command[0] = "python"
    command[command.index(".")] = project_address()
    # Two seeds and three epochs take a third of the time. The learning rate is typed in a way that
    # MLflow would refuse to log again.
    command[command.index("seeds=3")] = "seeds=2"
    command[command.index("epochs=5")] = "epochs=3"
    answer = run(folder, *command, "-P", "lr=1e-3")
    assert answer.status == 0, answer.err
    assert "Warning" not in answer.err  # that of a library tells users nothing
    return answer
