"""How far the runs of a study are: bars on a terminal, lines elsewhere."""

import time

from tqdm import tqdm

from pipeline.config import Config
from pipeline.jobs import Progress
from pipeline.training import BAR_INTERVAL

LINE_INTERVAL = 60.0  # seconds; without a terminal runs that go on are mentioned that often


class Board:
    """A bar for the study, and one below it for each run that trains in another process.

    Without a terminal there is a line for each run that ends, and now and then one for others.
    """

    def __init__(self, cells: int, done: int) -> None:
        # disable=None: a bar only on a terminal.
        self.study = tqdm(
            total=cells, initial=done, unit="run", mininterval=BAR_INTERVAL, disable=None
        )
        self.total, self.ended, self.failed = cells, done, 0
        self.running: dict[Config, tqdm[None] | None] = {}
        self.told: dict[Config, float] = {}

    def begin(self, cell: Config) -> None:
        """Say that a run begins."""
        self.running[cell] = None
        self.told[cell] = time.monotonic()
        self._describe()

    def show(self, cell: Config, progress: Progress) -> None:
        """Say how many epochs of a run are complete."""
        said = f"{cell.run_name}, validation accuracy {progress.val_accuracy:.1%}"
        if self.study.disable:
            if time.monotonic() - self.told[cell] > LINE_INTERVAL:
                self.told[cell] = time.monotonic()
                self.write(f"{said} after {progress.epochs} of {cell.epochs} epochs")
            return
        # How fast it is can be told from here on.
        bar = self.running[cell] or tqdm(
            total=cell.epochs, initial=progress.epochs, unit="epoch", leave=False
        )
        self.running[cell] = bar
        bar.set_description_str(said, refresh=False)
        bar.n = progress.epochs
        bar.refresh()

    def end(self, cell: Config, outcome: str, failed: bool = False) -> None:
        """Say how a run has ended."""
        bar = self.running.pop(cell)
        if bar is not None:
            bar.close()
        self.ended += 1
        self.failed += failed
        self.study.update()
        self._describe()
        self.write(f"[{self.ended}/{self.total}] {cell.run_name}: {outcome}")

    def write(self, line: str) -> None:
        """Print a line above the bars."""
        self.study.write(line)

    def close(self) -> None:
        """Leave the bars as they are."""
        for bar in self.running.values():
            if bar is not None:
                bar.close()
        self.study.close()

    def _describe(self) -> None:
        names = [cell.run_name for cell in self.running]
        running = names[0] if len(names) == 1 else f"{len(names)} runs"
        self.study.set_description_str(f"Study, {self.failed} failed, running {running}")
