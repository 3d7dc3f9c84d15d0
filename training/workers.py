"""Several processes: many jobs shared out among them (`each`), or one job that all do together (`together`)."""

from __future__ import annotations

import ctypes.util
import multiprocessing.connection
import multiprocessing.queues
import os
import signal
import socket
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Iterator, Sequence

from training.settings import is_told

_worker: dict[str, Any] = {}  # this process's: how it is made, and it


class WorkerError(RuntimeError):
    """A worker process is gone, or says what is wrong; the message says what to do."""


def each(make: Callable[..., Callable], args: tuple, jobs: Sequence, workers: int) -> Iterator[tuple[Any, Any]]:
    """(job, make(*args)(job)) of every job, in the order in which they end. With one worker, in this process; with more,
    always in others, for what a job sets (PyTorch's threads) is set for its whole process."""
    if not jobs:
        return
    if workers <= 1:
        work = make(*args)
        yield from ((job, work(job)) for job in jobs)
        return
    one_thread_each()
    quick_memory()
    spawn = multiprocessing.get_context("spawn")  # never fork after a GL context or a video was opened
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(min(workers, len(jobs)), spawn, _start, (make, args)) as pool:
        running = {pool.submit(_run, job): job for job in jobs}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            raise WorkerError("a worker process was killed (out of memory?): run again to go on") from error
        except BaseException:  # what still runs nobody would take
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def together(run: Callable[..., Any], args: tuple, processes: int) -> None:
    """run(*args) in processes that find each other as torch.distributed's do (over the loopback interface); what one
    raises ends all. Raises WorkerError with the message of an error that a user is told."""
    import torch.multiprocessing

    quick_memory()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = multiprocessing.get_context("spawn").SimpleQueue()
    started = torch.multiprocessing.spawn(_together, (run, args, processes, port, told), nprocs=processes, join=False)
    try:
        while not started.join():
            pass
    except torch.multiprocessing.ProcessRaisedException as error:  # which has no more than the text of a traceback
        if told.empty():
            raise
        raise WorkerError(told.get()) from error
    except torch.multiprocessing.ProcessExitedException as error:
        raise WorkerError(f"{error}; out of memory? Run again to go on from the last checkpoint") from error
    except BaseException:  # a signal that reached this process alone: without it, the others are not to go on
        for process in started.processes:
            process.terminate()
        raise


def _together(rank: int, run: Callable[..., Any], args: tuple, processes: int, port: int,
              told: multiprocessing.queues.SimpleQueue) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    one_thread_each()
    threading.Thread(target=_end_with_main, daemon=True).start()
    try:
        run(*args)
    except Exception as error:
        if is_told(type(error).__module__, str(error)):
            told.put(str(error))
        raise


def for_loaders() -> multiprocessing.context.BaseContext:
    """How a loader's processes are started: all forked from one that has imported what they need, where that can be done.
    Otherwise they import it one after the other, each waiting for its copy of the data, ten in a minute and a half."""
    one_thread_each()
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.data.mixture", "training.data.speech", "training.workers"])
    return context


def one_thread_each() -> None:
    """Numerical libraries of processes that are started from now on use one thread; those of this one are loaded."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def give_way(_: int) -> None:
    """For a loader's process, which works ahead where there is time left and takes none from the training."""
    os.nice(10)


def quick_memory() -> None:
    """Processes that are started from now on have tcmalloc where there is one and nothing else is preloaded: a training step
    takes and gives back thousands of tensors, on which glibc spends a tenth of its time, and an episode many arrays."""
    if found := allocator():
        os.environ.setdefault("LD_PRELOAD", found)


def allocator() -> str | None:
    """Name of the tcmalloc library that is installed (apt-get install libtcmalloc-minimal4)."""
    return ctypes.util.find_library("tcmalloc_minimal") if sys.platform == "linux" else None


def _start(make: Callable[..., Callable], args: tuple) -> None:
    threading.Thread(target=_end_with_main, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides
    _worker["make"], _worker["args"] = make, args


def _end_with_main() -> None:
    """Whoever kills the main process does not want its workers."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _run(job: Any) -> Any:
    if "work" not in _worker:  # only now, so that what goes wrong with it reaches the main process
        _worker["work"] = _worker["make"](*_worker["args"])
    return _worker["work"](job)
