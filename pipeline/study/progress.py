"""The progress of a study: bars on a terminal, lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from pipeline.config import Config
from pipeline.execution.tasks import Progress
from pipeline.news import shows_bars
from pipeline.study.forecast import Forecast, in_words
from pipeline.study.reuse import Begun
from pipeline.training.epoch import BAR_INTERVAL

log = logging.getLogger(__name__)
LINE_INTERVAL = 60.0  # seconds between progress lines of a run, without a terminal
# Not tqdm's own, which knows no speed until a run has ended.
STUDY_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs [{elapsed}{postfix}]"
RUN_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs"


class StudyProgress:
    """A bar for the study and, on a terminal, one below it for each run.

    A line goes to `pipeline.news` when a run ends and, without a terminal, now and then for others.
    """

    def __init__(
        self,
        cells: Sequence[Config],
        done: int,
        begun: Mapping[Config, Begun],
        forecast: Forecast,
    ) -> None:
        self.forecast = forecast
        self.left = {cell: begun[cell].epochs if cell in begun else 0 for cell in cells}  # complete
        self.total, self.ended, self.failed = len(cells) + done, done, 0
        self.running: dict[Config, tqdm[None] | None] = {}
        self.last_line: dict[Config, float] = {}
        self.study = tqdm(
            desc="Study",
            total=self.total,
            initial=done,
            bar_format=STUDY_BAR,
            mininterval=BAR_INTERVAL,
            disable=not shows_bars(),
        )

    def begin(self, cell: Config) -> None:
        """Show that a run begins, or begins again on another node."""
        self.running.setdefault(cell, None)
        self.last_line[cell] = time.monotonic()
        self._describe()

    def show(self, cell: Config, progress: Progress) -> None:
        """Show how far a run is."""
        known = self.forecast.seconds(self.left) is not None
        self.forecast.note(cell.variant, progress.epoch_seconds)
        self.left[cell] = progress.epochs
        if not known:
            log.info(f"{self._time_left()}, by the first {self.forecast.step}")
        state = f"{cell.run_name}, {progress.reached}" if progress.reached else cell.run_name
        if self.study.disable:
            due = time.monotonic() - self.last_line[cell] > LINE_INTERVAL
            if due and progress.epochs < cell.epochs:
                self.last_line[cell] = time.monotonic()
                log.info(f"{state} after {progress.epochs} of {cell.epochs} epochs")
            return
        if not sys.stderr.isatty():  # a notebook shows text that moves up as further lines
            self._describe()
            return
        bar = self.running[cell]
        if bar is None:
            bar = tqdm(desc=state, total=cell.epochs, bar_format=RUN_BAR, leave=False)
            self.running[cell] = bar
        bar.set_description_str(state, refresh=False)
        bar.n = progress.epochs
        bar.refresh()
        self._describe()

    def end(self, cell: Config, outcome: str, failed: bool = False) -> None:
        """Show how a run has ended."""
        bar = self.running.pop(cell)
        if bar is not None:
            bar.close()
        del self.left[cell]
        self.ended += 1
        self.failed += failed
        self.study.update()
        self._describe()
        left = f"; {self._time_left()}" if self.left else ""
        log.info(f"[{self.ended}/{self.total}] {cell.run_name}: {outcome}{left}")

    def close(self) -> None:
        """Close all bars."""
        for bar in self.running.values():
            if bar is not None:
                bar.close()
        self.study.close()

    def _time_left(self) -> str:
        seconds = self.forecast.seconds(self.left)
        return "time left unknown" if seconds is None else f"{in_words(seconds)} left"

    def _describe(self) -> None:
        names = [cell.run_name for cell in self.running]
        running = f", running {names[0] if len(names) == 1 else f'{len(names)} runs'}"
        failed = f", {self.failed} failed" if self.failed else ""
        self.study.set_postfix_str(self._time_left(), refresh=False)
        self.study.set_description_str(f"Study{running * bool(names)}{failed}")
