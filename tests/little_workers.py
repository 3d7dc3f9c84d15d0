"""Workers for tests of training/workers.py, in a module of their own: each process that is spawned imports it."""

import os
from pathlib import Path


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
    def __call__(self, job):
        return os.getpid()


def train_together(out: str):
    """Three steps of the little model in each of the processes, which then say what their weights are."""
    import torch
    from safetensors.torch import save_file

    from tests.test_train import trainer

    torch.set_num_threads(1)
    run = trainer(Path(out), 3)
    run.run()
    save_file({name: p.detach().clone() for name, p in run.model.named_parameters()}, Path(out) / f"{os.environ['RANK']}.st")
