"""The world. Importing it registers the gymnasium ids soma/Tabletop-v0 (any task) and soma/<Task>-v0."""

import gymnasium as gym

_ENTRY = "envs.tabletop.env:TabletopEnv"
TASK_NAMES = (
    "reach", "pick_up", "place_in", "push", "place_on", "stack", "open_drawer", "close_drawer", "press_button", "sort_two",
    "put_two", "place_then_press", "store", "press_buzzer", "start_on_beep", "find_rattle",
)  # fmt: skip

gym.register("soma/Tabletop-v0", entry_point=_ENTRY, kwargs={"task": None})
for _name in TASK_NAMES:
    gym.register(f"soma/{_name.title().replace('_', '')}-v0", entry_point=_ENTRY, kwargs={"task": _name})
