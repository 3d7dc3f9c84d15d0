"""Push the named drawer shut."""

from __future__ import annotations

from envs.tabletop.tasks import motions
from envs.tabletop.tasks.open_drawer import OpenDrawer


class CloseDrawer(OpenDrawer):
    """Success: the drawer is out by less than 12 mm. All drawers are open at first; pushing another one by more than
    3 cm fails."""

    name = "close_drawer"
    forms = (
        "close the {drawer}",
        "push the {drawer} shut",
        "shut the {drawer}",
        "please close the {drawer}",
        "slide the {drawer} shut",
        "go to the {drawer} and close it",
    )
    held_out_forms = (
        "please shut the {drawer}",
        "please push the {drawer} shut",
        "go to the {drawer} and push it shut",
        "go to the {drawer} and slide it shut",
    )
    slid = (0.07, 0.10)

    def success(self, world):
        return world.slid(self.drawer.name) < 0.012

    def course(self, world):
        return 1.0 - world.slid(self.drawer.name) / self.drawer.slid

    def expert(self, world):
        return motions.push_shut(world, self.drawer)
