"""Put two named objects in two named bowls, one after the other."""

from __future__ import annotations

import numpy as np

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.base import Task, distance, having, inside, nearness, out_of_reach, released, wrong_lifted


class SortTwo(Task):
    """Success: each object in its bowl, the gripper open and clear of both. Lifting another object fails, and so does
    letting go of one in a wrong bowl."""

    name = "sort_two"
    forms = (
        "put the {first} in the {first_bowl} and the {second} in the {second_bowl}",
        "place the {first} in the {first_bowl} and the {second} in the {second_bowl}",
        "sort the {first} into the {first_bowl} and the {second} into the {second_bowl}",
        "the {first} goes in the {first_bowl} and the {second} goes in the {second_bowl}",
        "put the {first} in the {first_bowl} then put the {second} in the {second_bowl}",
        "please move the {first} into the {first_bowl} and the {second} into the {second_bowl}",
    )
    held_out_forms = (
        "please sort the {first} into the {first_bowl} and the {second} into the {second_bowl}",
        "drop the {first} in the {first_bowl} and the {second} in the {second_bowl}",
        "place the {first} in the {first_bowl} then place the {second} in the {second_bowl}",
    )
    weights = {"near": 0.2, "held": 0.2, "first": 0.3, "second": 0.3}
    time_limit = 32.0

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        items = [draw.add(role, GRASPABLE, target=True) for role in ("first", "second")]
        draw.add("other", GRASPABLE)
        bowls = [draw.add(f"{role}_bowl", ("bowl",), target=True) for role in ("first", "second")]
        draw.add("other_bowl", ("bowl",))
        return draw.scene({item.role: item.label for item in (*items, *bowls)})

    def begin(self, world, heard_at, rng):
        role = world.scene.role
        self.pairs = [(role("first"), role("first_bowl")), (role("second"), role("second_bowl"))]

    def done(self, world, item, bowl) -> bool:
        return inside(world, item, bowl) and released(world, item)

    def success(self, world):
        return all(self.done(world, *pair) for pair in self.pairs)

    def failure(self, world):
        bowls = having(world, "first_bowl", "second_bowl", "other_bowl")
        lost = any(self.done(world, item, b) for item, bowl in self.pairs for b in bowls if b is not bowl)
        far = any(out_of_reach(world, item) for item, _ in self.pairs)
        return lost or far or wrong_lifted(world, having(world, "other", "extra"))

    def reward(self, world):
        item, _ = self.now(world)
        done = [float(inside(world, a, b) and not world.touching(a.name)) for a, b in self.pairs]
        near, held = nearness(distance(world, world.position(item.name))), float(world.held(item.name))
        return {"near": near, "held": held, "first": done[0], "second": done[1]}

    def now(self, world):
        """The pair that is to be dealt with: that of the object in hand, else the first not let go of in its bowl, else
        the last."""
        held = [pair for pair in self.pairs if motions.grasped(world, pair[0])]
        left = [(a, b) for a, b in self.pairs if not inside(world, a, b) or world.touching(a.name)]
        return (held + left + self.pairs[-1:])[0]

    def expert(self, world):
        return motions.put_in_bowl(world, *self.now(world))

    def focus(self, world) -> np.ndarray:
        item, bowl = self.now(world)
        busy = motions.grasped(world, item) or inside(world, item, bowl)
        return world.position(bowl.name if busy else item.name)
