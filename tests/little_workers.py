"""Workers for tests of training/workers.py, in a module of their own: each process that is spawned imports it."""

import os
import signal
import time
from pathlib import Path

from training.settings import SettingsError


class Times:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, job):
        return self.factor * job


class Broken:
    def __init__(self):
        self.value = 1 / 0


class Killed:
    def __call__(self, job):
        os._exit(9)


class Place:
    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __call__(self, job):
        time.sleep(self.seconds * job)
        return os.getpid()


def linger_together(seconds: float):
    print(os.getpid(), flush=True)
    time.sleep(seconds)


def linked_together():
    """The libraries that the first process has loaded."""
    if os.environ["RANK"] == "0":
        print(Path("/proc/self/maps").read_text())


def mistaken_together(mistake: str):
    """A mistake of the user's, or a fault of ours."""
    if mistake:
        raise SettingsError(mistake)
    return 1 / 0


def killed_together():
    os.kill(os.getpid(), signal.SIGKILL)


def train_together(out: str, *stops: int):
    """Three steps of the little model in each of the processes, which then say what their weights are. At each of the `stops`
    they begin anew from what is on disk."""
    import torch
    from safetensors.torch import save_file

    from tests.test_train import trainer

    torch.set_num_threads(1)
    for until in (*stops, 3):
        run = trainer(Path(out), 3)
        run.run(until)
    save_file({name: p.detach().clone() for name, p in run.model.named_parameters()}, Path(out) / f"{os.environ['RANK']}.st")


def muon_together(out: str, matrices: int):
    """Three steps of Muon with gradients that all processes have; each then says where its matrices are."""
    import torch
    from safetensors.torch import save_file

    torch.distributed.init_process_group("gloo")
    save_file(after_three_steps_of_muon(matrices), Path(out) / f"{os.environ['RANK']}.st")
    torch.distributed.barrier()  # nobody leaves while others still talk
    torch.distributed.destroy_process_group()


def after_three_steps_of_muon(count: int) -> dict:
    import torch

    from training.optimizers import Muon

    torch.manual_seed(0)
    shapes = ((48, 32), (32, 96), (48, 32), (40, 40), (48, 32))[:count]
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    muon = Muon(matrices, 0.02, weight_decay=0.1, dtype=torch.float32)
    for _ in range(3):
        for p in matrices:
            p.grad = torch.randn_like(p)
        muon.step()
    return {str(i): p.detach() for i, p in enumerate(matrices)}


class Threads:
    """What a loader reads: the number that was asked for, and how many threads PyTorch has where it is read."""

    def __getitem__(self, n):
        import torch

        return n, torch.get_num_threads()
