#!/bin/sh
# GUESS: An exception that a signal handler raises leaves ray.wait and ray.get at once, as it leaves
#   time.sleep: so a program can turn SIGTERM into an exception of its own, and clean up.
# REAL: Only KeyboardInterrupt does. Of any other exception the handler is run, and then both go on
#   waiting, to their timeout or for ever. What is raised then is a SystemError ("returned a result
#   with an exception set"), which `except Stop` does not catch; the exception is its cause. The
#   future of the same reference (`ref.future().result()`, `concurrent.futures.wait`) is interrupted
#   at once, with the exception itself.
# VERSIONS: ray 2.60.0, Python 3.11.7, Linux
# DATE: 2026-11-30
# OUTPUT SEEN:
#   time.sleep  KeyboardInterrupt  KeyboardInterrupt after 1 s
#   time.sleep  Stop               Stop after 1 s
#   ray.wait    KeyboardInterrupt  KeyboardInterrupt after 1 s
#   ray.wait    Stop               SystemError after 6 s
#   ray.get     KeyboardInterrupt  KeyboardInterrupt after 1 s
#   ray.get     Stop               SystemError after 6 s
#   future      KeyboardInterrupt  KeyboardInterrupt after 1 s
#   future      Stop               Stop after 1 s
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
cd "$folder"

RAY_AUTH_MODE=disabled "$folder/venv/bin/python" - <<'PYTHON'
import signal
import sys
import time
import warnings

import ray

WAIT = 6  # seconds


class Stop(Exception):
    """What a program may raise when it is asked to stop."""


@ray.remote
def sleep():
    time.sleep(99)


def outcome(call, kind):
    """What comes out of a call, and when, if a signal's handler raises after a second."""

    def handler(number, frame):
        raise kind

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 1)
    begun = time.monotonic()
    try:
        call()
        name = "nothing"
    except BaseException as error:
        name = type(error).__name__
    return name, "at once" if time.monotonic() - begun < WAIT / 2 else "late"


warnings.simplefilter("ignore")
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ref = sleep.remote()
calls = {
    "time.sleep": lambda: time.sleep(WAIT),
    "ray.wait": lambda: ray.wait([ref], timeout=WAIT),
    "ray.get": lambda: ray.get(ref, timeout=WAIT),
    "future": lambda: ref.future().result(WAIT),
}
found = {}
for name, call in calls.items():
    for kind in (KeyboardInterrupt, Stop):
        found[name, kind.__name__] = outcome(call, kind)
        told, when = found[name, kind.__name__]
        seconds = 1 if when == "at once" else WAIT
        print(f"{name:11} {kind.__name__:18} {told} after {seconds} s", flush=True)
ray.shutdown()

usual = {key: (key[1], "at once") for key in found}
late = {(name, "Stop"): ("SystemError", "late") for name in ("ray.wait", "ray.get")}
sys.exit(found != usual | late)
PYTHON
