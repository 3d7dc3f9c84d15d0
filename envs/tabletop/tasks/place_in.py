"""Put the named object in the named bowl."""

from __future__ import annotations

from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import inside
from envs.tabletop.tasks.transfer import Transfer


class PlaceIn(Transfer):
    """Success: the object inside the bowl, the gripper open and clear of it. Lifting another object fails, and so does
    letting go of it in another bowl."""

    name = "place_in"
    forms = (
        "put the {object} in the {bowl}",
        "place the {object} in the {bowl}",
        "put the {object} into the {bowl}",
        "move the {object} into the {bowl}",
        "pick up the {object} and put it in the {bowl}",
        "please drop the {object} in the {bowl}",
        "the {object} goes in the {bowl}",
    )
    held_out_forms = (
        "please put the {object} in the {bowl}",
        "drop the {object} into the {bowl}",
        "pick up the {object} and place it in the {bowl}",
        "please move the {object} into the {bowl}",
    )

    def scene(self, rng, split):
        return self.choose(rng, split, "bowl")

    def there(self, world, goal):
        return inside(world, self.item, goal)

    def expert(self, world):
        return motions.put_in_bowl(world, self.item, self.goal)
