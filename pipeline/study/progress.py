"""The progress of a study: bars on a terminal, lines elsewhere."""

import time

from tqdm import tqdm

from pipeline.config import Config
from pipeline.training.epoch import BAR_INTERVAL

LINE_INTERVAL = 60.0  # seconds between progress lines of a run, without a terminal


class StudyProgress:
    """A bar for the study, and one below it for each run that trains in another process.

    Without a terminal, it prints a line when a run ends, and now and then one for the others.
    """

    def __init__(self, cells: int, done: int) -> None:
        # disable=None: a bar only on a terminal.
        self.study = tqdm(
            total=cells, initial=done, unit="run", mininterval=BAR_INTERVAL, disable=None
        )
        self.total, self.ended, self.failed = cells, done, 0
        self.running: dict[Config, tqdm[None] | None] = {}
        self.last_line: dict[Config, float] = {}

    def begin(self, cell: Config) -> None:
        """Show that a run begins, or begins again on another node."""
        self.running.setdefault(cell, None)
        self.last_line[cell] = time.monotonic()
        self._describe()

    def show(self, cell: Config, epochs: int, val_accuracy: float) -> None:
        """Show how many epochs of a run are complete, and its accuracy after the last one."""
        state = f"{cell.run_name}, validation accuracy {val_accuracy:.1%}"
        if self.study.disable:
            if time.monotonic() - self.last_line[cell] > LINE_INTERVAL:
                self.last_line[cell] = time.monotonic()
                self.write(f"{state} after {epochs} of {cell.epochs} epochs")
            return
        # Its speed is known from here on.
        bar = self.running[cell] or tqdm(
            total=cell.epochs, initial=epochs, unit="epoch", leave=False
        )
        self.running[cell] = bar
        bar.set_description_str(state, refresh=False)
        bar.n = epochs
        bar.refresh()

    def end(self, cell: Config, outcome: str, failed: bool = False) -> None:
        """Show how a run has ended."""
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
        """Close all bars."""
        for bar in self.running.values():
            if bar is not None:
                bar.close()
        self.study.close()

    def _describe(self) -> None:
        names = [cell.run_name for cell in self.running]
        running = names[0] if len(names) == 1 else f"{len(names)} runs"
        self.study.set_description_str(f"Study, {self.failed} failed, running {running}")
