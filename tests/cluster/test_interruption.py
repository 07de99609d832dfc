"""Signals: raised at once, noted, passed on, and acted upon if the main thread cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from align_train.cluster.interruption import at_once, received
from align_train.errors import Interrupted
from tests.support.signals import catching_in_a_test

BEFORE = """
import ctypes, os, signal, sys, threading, time
from align_train.cluster import interruption
from align_train.cluster.interruption import at_once, catching, defer, raise_if_received
from align_train.config.messages import ending_in_one_line
from align_train.errors import Interrupted, Stopped

interruption._TO_NOTICE = interruption._TO_END = 0.5
# The tests may run under nohup, which ignores it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def ready():
    print("ready", flush=True)
"""


def outcome(body: str, *numbers: int, then: str = "") -> tuple[int, str, float]:
    """Status, stderr and seconds of a program that gets these signals once it is ready."""
    program = f"{BEFORE}\nwith ending_in_one_line():\n{textwrap.indent(body, '    ')}\n{then}"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    begun = time.monotonic()
    for number in numbers:
        time.sleep(0.1)
        os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    return process.returncode, error, time.monotonic() - begun


SAYS = "align_train: stopped by {}; what was saved before stays, and the same command goes on from "

WAITS = {
    "a sleep": "ready(); time.sleep(100)",
    "a lock": "lock = threading.Lock(); lock.acquire(); ready(); lock.acquire()",
    "a pipe": "read, _ = os.pipe(); ready(); os.read(read, 1)",
    "a call that no signal ends": (
        "libc = ctypes.CDLL(None); mutex = ctypes.create_string_buffer(64)\n"
        "libc.pthread_mutex_lock(mutex); ready(); libc.pthread_mutex_lock(mutex)"
    ),
    "an end that hangs": "try:\n    ready(); time.sleep(100)\nfinally:\n    time.sleep(100)",
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGTERM, "SIGTERM"),
        pytest.param(signal.SIGINT, "Ctrl-C", marks=pytest.mark.long),
        pytest.param(signal.SIGUSR1, "SIGUSR1", marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, "SIGHUP", marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_any_wait_in_one_line(wait: str, number: int, name: str) -> None:
    status, error, seconds = outcome(WAITS[wait], number)
    assert status == 128 + number
    assert error.startswith(SAYS.format(name)) and error.count("\n") == 1, error
    assert seconds < 5


@pytest.mark.parametrize("wait", ["a sleep", "a call that no signal ends"])
def test_a_command_says_what_a_signal_leaves_of_its_work(wait: str) -> None:
    _, error, _ = outcome(f"interruption.leave('nothing is saved')\n{WAITS[wait]}", signal.SIGTERM)
    assert error == "align_train: stopped by SIGTERM; nothing is saved\n"


DEFERRED = """
defer()
ready()
deadline = time.monotonic() + 1
while time.monotonic() < deadline:
    time.sleep(0.01)
assert interruption.received() == {number}
try:
    with at_once():
        raise AssertionError
except Interrupted as error:
    assert error.number == {number}
defer(False)
raise Stopped("saved", signal={number})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_deferred_signal_is_noted_and_ends_the_next_wait(number: int) -> None:
    status, error, _ = outcome(DEFERRED.format(number=int(number)), number)
    assert (status, error) == (128 + number, "align_train: saved\n")


@pytest.mark.long
def test_a_wait_in_a_deferred_stretch_is_cut_short_once_and_repeats_change_nothing() -> None:
    body = """
    defer()
    try:
        with at_once():
            ready()
            time.sleep(100)
    except Interrupted:
        pass
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        time.sleep(0.01)
    defer(False)
    time.sleep(0.3)
    raise Stopped("saved", signal=15)
    """
    signals = [signal.SIGTERM] * 4 + [signal.SIGUSR1]
    status, error, _ = outcome(textwrap.dedent(body), *signals)
    assert (status, error) == (143, "align_train: saved\n")


@pytest.mark.long
def test_a_second_ctrl_c_raises_in_a_deferred_stretch_too() -> None:
    status, error, seconds = outcome(
        "defer(); ready(); time.sleep(100)", signal.SIGINT, signal.SIGINT
    )
    assert status == 130 and error.startswith(SAYS.format("Ctrl-C")) and seconds < 5


@pytest.mark.long
def test_a_signal_that_came_to_another_rank_ends_a_wait_here() -> None:
    body = """
    defer()
    threading.Timer(0.2, interruption.pass_on, (2,)).start()
    ready()
    with at_once():
        time.sleep(100)
    """
    status, error, _ = outcome(textwrap.dedent(body))
    assert status == 130 and error.startswith(SAYS.format("Ctrl-C"))


@pytest.mark.long
def test_a_forked_child_has_the_usual_signals_and_writes_none_to_its_parent() -> None:
    body = """
    child = os.fork()
    if not child:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(100)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    time.sleep(0.2)
    assert not interruption.received()
    ready()
    """
    status, error, _ = outcome(textwrap.dedent(body))
    assert (status, error) == (0, "")


def test_nohup_keeps_its_effect() -> None:
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    body = "ready()\ntime.sleep(1)\nassert interruption.received() == 0"
    program = f"{BEFORE}\n{before}\nwith ending_in_one_line():\n{textwrap.indent(body, '    ')}"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=60) == 0


def test_what_comes_after_a_command_is_not_stopped_by_its_signal() -> None:
    with catching_in_a_test(), pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    with at_once():
        assert not received()
