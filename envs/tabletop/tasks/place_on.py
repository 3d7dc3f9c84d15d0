"""Put the named object on the named plate."""

from __future__ import annotations

from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import on
from envs.tabletop.tasks.transfer import Transfer


class PlaceOn(Transfer):
    """Success: the object on the plate, the gripper open and clear of it. Lifting another object fails, and so does
    letting go of it on another plate."""

    name = "place_on"
    forms = (
        "put the {object} on the {plate}",
        "place the {object} on the {plate}",
        "set the {object} down on the {plate}",
        "pick up the {object} and put it on the {plate}",
        "please put the {object} on the {plate}",
        "the {object} goes on the {plate}",
        "move the {object} onto the {plate}",
    )
    held_out_forms = (
        "please place the {object} on the {plate}",
        "put the {object} down on the {plate}",
        "pick up the {object} and place it on the {plate}",
        "put the {object} onto the {plate}",
    )
    top = 0.006  # m, of a plate's disc over the table

    def scene(self, rng, split):
        return self.choose(rng, split, "plate")

    def there(self, world, goal):
        return on(world, self.item, goal)

    def expert(self, world):
        return motions.put_on(world, self.item, self.goal, self.top - self.goal.height / 2)
