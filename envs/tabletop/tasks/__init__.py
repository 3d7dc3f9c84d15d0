"""The tasks by name."""

from envs.tabletop.tasks.base import Task
from envs.tabletop.tasks.pick_up import PickUp
from envs.tabletop.tasks.place_in import PlaceIn
from envs.tabletop.tasks.press_buzzer import PressBuzzer
from envs.tabletop.tasks.reach import Reach

TASKS: dict[str, type[Task]] = {task.name: task for task in (Reach, PickUp, PlaceIn, PressBuzzer)}
