"""Put two named objects in one named bowl, one after the other."""

from __future__ import annotations

from envs.tabletop.scene import GRASPABLE, SceneDraw
from envs.tabletop.tasks import motions
from envs.tabletop.tasks.sort_two import SortTwo


class PutTwo(SortTwo):
    """As SortTwo, with one bowl for both."""

    name = "put_two"
    forms = (
        "put the {first} and the {second} in the {bowl}",
        "place the {first} and the {second} in the {bowl}",
        "put the {first} and then the {second} into the {bowl}",
        "move both the {first} and the {second} into the {bowl}",
        "the {first} and the {second} go in the {bowl}",
        "please put both the {first} and the {second} in the {bowl}",
    )
    held_out_forms = (
        "please move the {first} and the {second} into the {bowl}",
        "place both the {first} and the {second} in the {bowl}",
        "drop the {first} and then the {second} in the {bowl}",
    )
    beside = 0.022  # m from the bowl's middle, the first nearer to the robot

    def scene(self, rng, split):
        draw = SceneDraw(rng, split)
        items = [draw.add(role, GRASPABLE, target=True) for role in ("first", "second")]
        draw.add_rivals(items[0], GRASPABLE, count=2)
        bowl = draw.add("bowl", ("bowl",), target=True)
        draw.add_rivals(bowl, ("bowl",), count=1, role="other_bowl")
        return draw.scene({item.role: item.label for item in (*items, bowl)})

    def begin(self, world, heard_at, rng):
        self.pairs = [(world.scene.role(role), world.scene.role("bowl")) for role in ("first", "second")]

    def expert(self, world):
        item, bowl = self.now(world)
        return motions.put_in_bowl(world, item, bowl, self.beside if item.role == "second" else -self.beside)
