"""Workers for tests of training/workers.py, in a module of their own: each process that is spawned imports it."""

import os


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
