"""A signal stops the main thread, whatever other threads are doing."""

from pathlib import Path

from conftest import run


def test_another_thread_neither_holds_a_signal_back_nor_gets_it() -> None:
    code = """
import os, signal, threading
from pipeline import interruption
interruption.install()
begun, stopped = threading.Event(), threading.Event()

def write():
    with interruption.deferred():
        begun.set()
        print("written" if stopped.wait(5) else "waited in vain")

writer = threading.Thread(target=write)
writer.start()
begun.wait()
try:
    os.kill(os.getpid(), signal.SIGTERM)
    writer.join()
except interruption.Interrupted as stop:
    print(stop)
stopped.set()
writer.join()
"""
    answer = run(Path.cwd(), "python", "-c", code)
    assert answer.out.splitlines() == ["stopped by SIGTERM", "written"], answer.err
