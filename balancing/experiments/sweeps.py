"""Many runs of an experiment: over seeds or settings, on the cores of one machine or of many.

A run is a function and one config; runs do not know of each other. So any executor in the manner
of :mod:`concurrent.futures` can do them, in any order, and finished ones can be kept in a file.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from balancing._validate import whole
from balancing.experiments._code import code_version, name_of
from balancing.experiments._store import Store, pack, unpack

__all__ = ["Done", "Task", "cores", "finished", "sweep"]

# How often in a row workers may die before any run has ended.
_ROUNDS = 3


@dataclass(frozen=True)
class Task:
    """One run: a function, its config, and what tells it from all others.

    Attributes:
        run: maps a config to a table.
        config: a frozen dataclass of numbers, strings and tuples of them.
        key: hash of the name of the function, its code and the config.

    Raises:
        ValueError: another process could not find ``run``, or ``config`` is something else.
    """

    run: Callable[..., pd.DataFrame]
    config: Any
    key: str = field(init=False)

    def __post_init__(self) -> None:
        """Find the key."""
        described = f"{self.name} {code_version(self.run)} {self.settings}"
        object.__setattr__(self, "key", hashlib.sha256(described.encode()).hexdigest())

    @property
    def name(self) -> str:
        """``module:function``."""
        return name_of(self.run)

    @property
    def settings(self) -> str:
        """The config as JSON."""
        if not is_dataclass(self.config) or isinstance(self.config, type):
            raise ValueError(f"configs must be dataclasses, got {self.config!r}")
        try:
            settings = json.dumps(asdict(self.config), sort_keys=True)
        except TypeError as error:
            raise ValueError(
                f"configs must hold numbers, strings and tuples of them, got {self.config!r}"
            ) from error
        return f"{type(self.config).__qualname__} {settings}"


@dataclass(frozen=True, eq=False)
class Done:
    """A task that has ended.

    Attributes:
        number: of the task.
        table: what it gave.
        was_kept: whether it was in the store, from an earlier sweep.
    """

    number: int
    table: pd.DataFrame
    was_kept: bool


def sweep(
    run: Callable[..., pd.DataFrame],
    configs: Iterable[Any],
    executor: Executor | None = None,
    *,
    jobs: int | None = None,
    store: Path | str | None = None,
    resume: bool = True,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Run an experiment once for each config.

    Every run has one torch thread, so that runs side by side do not fight for the cores (unless
    the executor has its threads in this very process).

    Args:
        run: maps a config to a table; a function of a module that other processes can import.
        configs: frozen dataclasses, for example
            ``[replace(config, seed=seed) for seed in range(20)]``.
        executor: in the manner of :mod:`concurrent.futures`, for example Dask's
            ``client.get_executor(pure=False)``; None means processes on this machine. Where it
            does a run twice, because a worker has died, one result is taken.
        jobs: number of processes, without an executor; None means one a core. With 1 there is
            none beside this one.
        store: an SQLite file for the finished runs, made where there is none.
        resume: take finished runs from the store, if config, code and versions are the same.
        progress: show a progress bar on stderr; None means only on a terminal.

    Returns:
        The tables, one below the other in the order of the configs.

    Raises:
        TypeError: an argument is of another kind than said above.
        ValueError: there is no config, or an argument is not what is said above.
        OSError: the store cannot be used; or, as ``ChildProcessError``, processes have died
            several times before any run ended. Runs that have finished are in the store.

        And what a run raises, with a note of its config, once all others have finished.
    """
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(f"executor must have a method submit, got {type(executor).__name__}")
    tasks = [Task(run, config) for config in configs]
    if not tasks:
        raise ValueError("configs is empty; there is nothing to run")
    tables = {
        done.number: done.table
        for done in finished(
            tasks, executor, jobs=jobs, store=store, resume=resume, progress=progress
        )
    }
    return pd.concat([tables[number] for number in range(len(tasks))], ignore_index=True)


def finished(
    tasks: Sequence[Task],
    executor: Executor | None = None,
    *,
    jobs: int | None = None,
    store: Path | str | None = None,
    resume: bool = True,
    progress: bool | None = None,
) -> Iterator[Done]:
    """Each task as it ends; what :func:`sweep` says holds here."""
    jobs = cores() if jobs is None else _at_least_one("jobs", jobs)
    waiting = dict(enumerate(tasks))
    error: BaseException | None = None
    with ExitStack() as stack:
        shelf = stack.enter_context(Store(store)) if store is not None else None
        bar = stack.enter_context(
            tqdm(
                total=len(tasks),
                desc="sweep",
                unit="run",
                disable=None if progress is None else not progress,
                mininterval=0.5,
            )
        )
        if shelf is not None and resume:
            for number, task in enumerate(tasks):
                if content := shelf.get(task.key):
                    del waiting[number]
                    bar.update()
                    yield Done(number, unpack(content), was_kept=True)
        for number, outcome in _outcomes(waiting, executor, jobs):
            bar.update()
            if isinstance(outcome, BaseException):
                error = error or outcome
                continue
            content, seconds = outcome
            task = tasks[number]
            if shelf is not None:
                shelf.put(task.key, content, run=task.name, config=task.settings, seconds=seconds)
            yield Done(number, unpack(content), was_kept=False)
    if error is not None:
        raise error


def _at_least_one(name: str, value: object) -> int:
    if whole(name, value) < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return whole(name, value)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_Outcome = tuple[bytes, float] | BaseException


def _outcomes(
    waiting: dict[int, Task], executor: Executor | None, jobs: int
) -> Iterator[tuple[int, _Outcome]]:
    """Number of each task, with its packed table and seconds or with its error."""
    if executor is not None:
        yield from _submitted(waiting, executor)
    elif min(jobs, len(waiting)) <= 1:
        with _one_thread():
            for number, task in waiting.items():
                yield number, _outcome(partial(_work, task, None))
    else:
        yield from _in_processes(waiting, jobs)


def _in_processes(waiting: dict[int, Task], jobs: int) -> Iterator[tuple[int, _Outcome]]:
    """Runs on this machine; where a process dies, the runs that it takes along start again.

    If none had ended, they do so one at a time, so that a run that kills its process takes no other
    along, and the first comes last.
    """
    fruitless = 0
    while waiting:
        before = len(waiting)
        with _pool(1 if fruitless else min(jobs, before)) as pool:
            for number, outcome in _submitted(waiting, pool):
                if not isinstance(outcome, BrokenProcessPool):
                    del waiting[number]
                    yield number, outcome
        if len(waiting) < before:
            fruitless = 0
            continue
        fruitless += 1
        if fruitless == _ROUNDS:
            first = next(iter(waiting.values()))
            raise ChildProcessError(
                f"worker processes have died {_ROUNDS} times before any run ended (killed, or out "
                f"of memory?), with {len(waiting)} runs left, the first of which is {first.name} "
                f"with {first.settings}; what was finished is kept: take fewer --jobs"
            )
        if fruitless > 1:
            suspect = next(iter(waiting))
            waiting[suspect] = waiting.pop(suspect)


def _submitted(waiting: dict[int, Task], executor: Executor) -> Iterator[tuple[int, _Outcome]]:
    here = _place()
    futures: dict[Future[tuple[bytes, float]], int] = {}
    try:
        for number, task in waiting.items():
            futures[executor.submit(_work, task, here)] = number
        for future in as_completed(futures):
            yield futures[future], _outcome(future.result)
    except BrokenProcessPool as error:  # while tasks were handed in
        for number in waiting.keys() - futures.values():
            yield number, error
    finally:
        for future in futures:
            future.cancel()


def _outcome(result: Callable[[], tuple[bytes, float]]) -> _Outcome:
    """What a run returns or raises; an interruption goes on its way."""
    try:
        return result()
    except Exception as error:
        return error


def _quiet(run: Callable[..., pd.DataFrame]) -> dict[str, bool]:
    """What keeps an experiment from showing a progress bar of its own."""
    return {"progress": False} if "progress" in inspect.signature(run).parameters else {}


def _place() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _work(task: Task, sweeper: tuple[str, int] | None) -> tuple[bytes, float]:
    """Do one run, in whatever process: its packed table, and the seconds that it took."""
    if sweeper is not None and sweeper != _place():
        torch.set_num_threads(1)
        if Task(task.run, task.config).key != task.key:
            raise RuntimeError(
                f"{socket.gethostname()} has another version of {task.name} or of what it uses; "
                "install the same on all machines"
            )
    start = time.perf_counter()
    try:
        table = task.run(task.config, **_quiet(task.run))
    except Exception as error:
        error.add_note(f"in {task.name} with {task.settings}")
        raise
    return pack(table), time.perf_counter() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end as soon as this one ends, however it does, or leaves with an error."""
    # forked processes could hang in the locks of threads that they do not have
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_live_with, initargs=(theirs,))
    try:
        yield pool
    except BaseException:
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def _live_with(parent: Connection) -> None:
    """End this process once the other end of the connection is closed, or its process is gone."""

    def watch() -> None:
        parent.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
