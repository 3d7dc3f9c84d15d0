"""The tasks by name."""

from envs.tabletop.tasks.base import Task
from envs.tabletop.tasks.close_drawer import CloseDrawer
from envs.tabletop.tasks.find_rattle import FindRattle
from envs.tabletop.tasks.open_drawer import OpenDrawer
from envs.tabletop.tasks.pick_up import PickUp
from envs.tabletop.tasks.place_in import PlaceIn
from envs.tabletop.tasks.place_on import PlaceOn
from envs.tabletop.tasks.place_then_press import PlaceThenPress
from envs.tabletop.tasks.press_button import PressButton
from envs.tabletop.tasks.press_buzzer import PressBuzzer
from envs.tabletop.tasks.push import Push
from envs.tabletop.tasks.put_two import PutTwo
from envs.tabletop.tasks.reach import Reach
from envs.tabletop.tasks.sort_two import SortTwo
from envs.tabletop.tasks.stack import Stack
from envs.tabletop.tasks.start_on_beep import StartOnBeep
from envs.tabletop.tasks.store import Store

SEEN = (
    Reach, PickUp, PlaceIn, Push, PlaceOn, Stack, OpenDrawer, CloseDrawer, PressButton, SortTwo, PutTwo, PlaceThenPress,
    Store,
)  # fmt: skip
HEARD = (PressBuzzer, StartOnBeep, FindRattle)
TASKS: dict[str, type[Task]] = {task.name: task for task in (*SEEN, *HEARD)}
