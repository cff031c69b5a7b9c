"""Processes of their own that are forked, not started: one has imported all of it and forks for each command.

The imports take longer than any training here. What comes of it is a process all the same, with streams, environment,
signals and an end of its own; the start itself is tested by test_cli.py, test_stdout.py and test_wheel.py.

`python forked.py CODE WORD ...`, with FORKED in its environment, does what `python -c CODE WORD ...` does: a small
process that hands its streams to a forked one, passes signals on to it and ends as that one does; where it is killed,
so is the other. Launchers start it in place of a script.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress

SCRIPT = __file__
PREFCLI = "from prefcli.cli.main import main\nmain()"
TORCHRUN = "from torch.distributed.run import main\nmain()"
ACCELERATE = "from accelerate.commands.accelerate_cli import main\nmain()"


def ask(words: list[str]) -> int:
    """Have the server fork for it, and pass signals on: the exit code, or a signal's number below zero."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(os.environ["FORKED"])
        socket.send_fds(link, [b"."], [0, 1, 2])
        link.sendall(json.dumps([words, dict(os.environ), os.getcwd()]).encode() + b"\n")
        with link.makefile() as said:
            process = int(said.readline())

            def passed_on(number: int, _: object) -> None:
                with suppress(ProcessLookupError):
                    os.kill(process, number)

            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, passed_on)
            return int(said.readline())


def serve(path: str) -> None:
    """Until stdin ends."""
    import gc

    import torch.distributed.run  # noqa: F401

    from prefcli.cli import main  # noqa: F401
    from prefcli.rl import ppo as rl  # noqa: F401
    from prefcli.stages import dpo, kto, ppo, reward, sft  # noqa: F401

    os.fsync = lambda _: None  # as in conftest.py
    gc.freeze()  # so that no child writes to what all have in common
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _look_after(link)
            link.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _look_after(link: socket.socket) -> None:
    """Fork for one command, and tell of its end."""
    streams = socket.recv_fds(link, 1, 3)[1]
    with link.makefile() as said:
        words, env, folder = json.loads(said.readline())
    ear, mouth = os.pipe()  # the child's end closes it
    child = os.fork()
    if child == 0:
        link.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.close(ear)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        _run(words)
    for stream in (mouth, *streams):
        os.close(stream)
    with suppress(OSError):
        link.sendall(f"{child}\n".encode())
        if link in select.select([link, ear], [], [])[0]:
            os.kill(child, signal.SIGKILL)
        link.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
    os._exit(0)


def _run(words: list[str]) -> None:
    import atexit
    import importlib
    import traceback

    from prefcli.cli import interrupts

    importlib.reload(interrupts)  # has read the environment
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    sys.__stdout__ = sys.stdout
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv, code = ["prefcli", *words[1:]], 1
    try:
        exec(compile(words[0], "<forked>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        os._exit(code)


class Server:
    """`start(code, *words)` is a forked process, as subprocess.Popen gives it. Launchers are given SCRIPT and those."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/forked"
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        words = [sys.executable, SCRIPT, "--serve", self.path]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, code: str, *words: str, env: dict[str, str] | None = None, **more) -> subprocess.Popen:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "FORKED": self.path, **(env or {})}
        return subprocess.Popen([sys.executable, SCRIPT, code, *words], text=True, env=env, **more)

    def end(self) -> None:
        self.process.kill()  # nothing runs in it: taking an interpreter with torch in it apart lasts seconds
        self.process.communicate()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        code = ask(sys.argv[1:])
        if code < 0:
            with suppress(OSError):  # of SIGKILL it is
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)
