"""The world. Importing it registers the gymnasium ids soma/Tabletop-v0 (any task) and soma/<Task>-v0."""

import gymnasium as gym

_ENTRY = "envs.tabletop.env:TabletopEnv"
TASK_NAMES = ("reach", "pick_up", "place_in", "press_buzzer")

gym.register("soma/Tabletop-v0", entry_point=_ENTRY, kwargs={"task": None})
for _name in TASK_NAMES:
    gym.register(f"soma/{_name.title().replace('_', '')}-v0", entry_point=_ENTRY, kwargs={"task": _name})
