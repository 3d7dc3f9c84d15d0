"""The agent on a robot: what it senses comes in as topics, what it decides goes out as joint trajectories, or as the speed of a
mobile base."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from agent.perception import Senses, Stale
from agent.spec import AUDIO, IMAGES, STATE, TASK, TIME
from policies.mmllm import MMLLMPolicy
from ros_nodes import convert
from ros_nodes.arguments import ArgumentError, Parameter, device_of, known, run
from ros_nodes.bodies import BODIES, Arm, Base
from ros_nodes.lifecycle import ACTIVE, Lifecycle
from ros_nodes.orders import Orders
from ros_nodes.transport import LAST_WORDS
from ros_nodes.trouble import LASTING, POLICY, Trouble

ECHO = 0.3  # s for which a room and a loudspeaker's buffers go on with what was said
QUICKEST = 0.008  # s between two joint states that are answered
NEVER = -1e9  # s
RESTING = 0.02  # s from one look at whether the body should stand to the next
LOST = 0.5  # s without a new state of the body after which it is brought to a stand
ENDING, LAST = "the agent ends", 3.0  # why a robot is to stand at the end; s that it is given for it


class AgentNode:
    """Decides each `period` s of what its sensors' stamps say, on the newest observation that all of them agree on. Each
    state of its body (ros_nodes/bodies.py) that brings nothing to decide is answered, too: a sign of life of this loop.
    While a sensor is late, missing or frozen, or the policy fails, which diagnostics name, a stand is asked for. A stamp that
    goes back begins everything anew. What it is to do, and whether it may, is in ros_nodes/orders.py; with nothing to do, and
    where its state does not come any more, the body stands.

    A managed node: `configure` loads the weights and subscribes, `activate` begins to decide, `deactivate` falls silent,
    so that the supervisor brings the robot to a stand and holds it, `cleanup` frees the weights; `shutdown` and SIGINT end the
    goal and bring the body to a stand first. The action execute_task takes an instruction as a goal (ros_nodes/task_server.py).
    """

    PARAMETERS = {
        "weights": Parameter("pocket", "a shipped name or a checkpoint's folder"),
        "device": Parameter("cpu", "of PyTorch, that decides: cpu, cuda, or cuda:0 and so on"),
        "body": Parameter("arm", f"what it moves: one of {', '.join(BODIES)}"),
        "period": Parameter(0.3, "s from one decision to the next", 0.02, 5.0),
        "tolerance": Parameter(0.05, "s that the stamps of one observation may be apart", 0.0, 1.0),
        "oldest": Parameter(0.15, "s that an observation may be old", 0.02, 5.0),
        "seed": Parameter(0, "of the decisions' random numbers", 0, 2**31),
        "threads": Parameter(1, "of PyTorch", 1, 64),
        "settled": Parameter(3.0, "s of standing still, after moving, that end a goal of execute_task", 0.5, 60.0),
        "base": Parameter("base", "frame of the robot's base, in which agent/goal says where it goes"),
        "talk": Parameter(False, "say aloud what was understood, and for which sensor it waits"),
        "cameras": Parameter([], "NAME=TOPIC of cameras whose pictures do not come on camera/NAME/image_raw; a TOPIC that ends "
                             "with /compressed has CompressedImage"),
        "compressed": Parameter(False, "take the other cameras' pictures from camera/NAME/image_raw/compressed"),
        "lockstep": Parameter(False, "answer a joint state only when all that belongs to it has come"),
        "autostart": Parameter(True, "configure and activate without being asked"),
    } | Arm.PARAMETERS | Base.PARAMETERS

    def __init__(self, node, policy=None):
        """policy: in place of the one that `configure` loads."""
        self.node, asked = node, node.parameters(self.PARAMETERS)
        torch.set_num_threads(asked.threads)
        device, self.body = device_of(asked.device), known("parameter body", asked.body, BODIES)(asked)
        self.load = lambda: policy or MMLLMPolicy.load(asked.weights, device)
        self.policy: MMLLMPolicy | None = None  # while it is configured
        self.period, self.seed, self.bounds = asked.period, asked.seed, (asked.tolerance, asked.oldest)
        self.lockstep, self.base = asked.lockstep, asked.base
        self.topics = lambda names: convert.camera_topics(names, asked.cameras, asked.compressed)
        self.felt_at = self.newest = NEVER  # when the last joint state with a new stamp had been answered; that stamp, s
        self.ending, self.deadline, self.last_words = "", None, LAST_WORDS  # why the node ends; when at the latest, s
        self.orders = Orders(node, asked.talk, asked.settled, self.begin, self.idle, lambda text: self.policy.refuses(text))
        self.trouble = Trouble(node, self.orders.say, lambda: self.life.state)
        node.timer(1.0, self.report)
        node.timer(RESTING, self.come_to_rest)
        self.life = Lifecycle(node, {"configure": self.configure, "activate": self.begin, "cleanup": self.free,
                                     **{label: self.asked_to(label) for label in ("deactivate", "shutdown")}}, self.wind_down)
        if asked.autostart:
            self.life.change("configure")
            self.life.change("activate")

    def configure(self) -> None:
        """Raises CheckpointError for no such weights, ArgumentError for those of another body, or than before `cleanup`."""
        policy = self.load()
        spec = policy.model.spec
        if spec.senses:
            raise ArgumentError(f"the weights feel {', '.join(spec.senses)}, for which there is no topic")
        if self.connected and spec != self.spec:
            raise ArgumentError("these weights sense or move something else than those before: start the node anew")
        policy.warm_up()
        if not self.connected:
            self.subscribe(spec)
        self.policy = policy
        self.begin()

    @property
    def connected(self) -> bool:
        return self.orders.task is not None

    def free(self) -> None:
        """Let go of the weights, and of what was asked for."""
        self.policy = None
        self.orders.hold()
        self.trouble.be("")
        torch.cuda.empty_cache()

    def idle(self) -> str:
        """Why it takes no orders; "" where it does."""
        return self.ending or ("" if self.life.state == ACTIVE else "the agent is not active")

    def asked_to(self, label: str) -> Callable[[], None]:
        return lambda: self.give_up(f"{label} was asked for")

    def give_up(self, why: str) -> None:
        """End the goal, if there is one."""
        if self.connected:
            self.orders.task.interrupted(why)

    def subscribe(self, spec) -> None:
        node, topics = self.node, self.topics(spec.cameras)
        sensor = "reliable" if self.lockstep else "sensor"  # which takes what is sent either way
        self.body.connect(node, spec, self.configured(self.felt), self.commanded, sensor)
        self.spec = spec
        self.goal = node.publisher(convert.POINT_STAMPED, "agent/goal", "reliable")
        for name, topic in topics.items():
            kind = convert.COMPRESSED if topic.endswith(convert.COMPRESSED_END) else convert.IMAGE
            node.subscribe(kind, topic, self.configured(self.picture_of(name)), sensor)
        if spec.microphones:
            node.subscribe(convert.AUDIO, "audio", self.configured(self.audio), "stream")
            node.subscribe(convert.AUDIO, "speech", self.configured(self.own_voice), "reliable")
        self.orders.connect(self.body.supervised)

    def configured(self, callback: Callable) -> Callable:
        """Without weights there is nobody to take a message."""
        return lambda value: callback(value) if self.policy is not None else None

    def begin(self) -> None:
        """Forget what was sensed, heard and commanded, not the instruction, written or spoken."""
        if self.policy is None:
            return
        self.policy.reset(self.spec, self.seed)
        self.policy.spoken = self.orders.spoken
        self.senses = Senses(self.spec, *self.bounds)
        self.senses.instruct(self.orders.text)
        self.body.forget()
        self.decided = self.answered = NEVER
        self.unheard = None  # since when sound is late, s
        self.answer = self.pending = None

    # ---- what comes in

    def picture_of(self, name: str):
        def take(image) -> None:
            try:
                picture = convert.from_image(image) if hasattr(image, "encoding") else convert.from_compressed(image)
            except convert.ConvertError as error:
                self.node.remark(name, f"camera {name}: {error}")
                return
            self.senses.sense(IMAGES + name, convert.seconds(image.header.stamp), picture)
            self.attend()

        return take

    def audio(self, audio) -> None:
        try:
            samples = convert.from_audio(audio, self.spec.sample_rate, len(self.spec.microphones))
            self.senses.hear(convert.seconds(audio.header.stamp), samples)
            self.attend()
        except convert.ConvertError as error:
            self.node.remark(AUDIO, str(error))

    def own_voice(self, audio) -> None:
        """What a loudspeaker plays of what it says."""
        start = convert.seconds(audio.header.stamp)
        self.policy.spoke(start, start + ECHO + len(audio.data) / max(1, audio.channels * audio.sample_rate))

    def commanded(self, moving: bool) -> None:
        """The robot was told where to be, or how fast."""
        self.orders.task.commanded(moving)
        if self.policy is not None:
            self.attend()

    def felt(self, state) -> None:
        """The body's own state."""
        try:
            measured = self.body.take(state)
        except convert.ConvertError as error:
            self.trouble.be(f"{STATE}: {error}")
            return
        if measured is None:
            return
        if self.lockstep or not 0 < measured.stamp - self.answered < QUICKEST:
            self.answer_to(measured)
        if measured.stamp != self.newest:
            self.newest, self.felt_at = measured.stamp, self.node.now()

    def answer_to(self, measured) -> None:
        if measured.stamp < self.answered - self.bounds[1]:
            self.policy.own_voice.clear()  # at times of another clock
            self.begin()
        if measured.stamp == self.answered and self.answer is not None:
            if self.lockstep:
                self.body.send(self.answer)  # asked once more
            return
        self.pending = measured
        self.attend()

    def attend(self) -> None:
        """Answer the state that waits, in lock-step once all that belongs to it is here."""
        measured = self.pending
        if measured is None:
            return
        self.senses.sense(STATE, measured.stamp, self.body.state(measured))
        self.senses.place = self.body.place(measured)
        if not self.deciding:
            self.pending = None
            self.listen(measured)
        elif not self.lockstep or (self.senses.complete(measured.stamp) and self.knows_command(measured.stamp)):
            self.pending = None
            self.live(measured)

    @property
    def deciding(self) -> bool:
        return self.policy is not None and not self.idle() and not self.orders.waits(self.policy.listens)

    def listen(self, measured) -> None:
        """With nothing to do, and free to move, it waits for a spoken instruction."""
        if self.idle() or not self.spec.microphones or self.orders.stopped:
            return
        try:
            samples = self.senses.take_sound(measured.stamp)
        except Stale:
            return
        self.policy.spoken = ""  # the same words may be said once more
        if len(samples):
            self.policy.hear(samples, measured.stamp, self.body.state(measured))
        if words := self.policy.spoken:
            self.orders.take(words)

    def knows_command(self, stamp: float) -> bool:
        """Whether the command whose time is `stamp` has come; none has for the first state of all."""
        return self.answer is None or self.body.told_until(stamp)

    # ---- what goes out

    def live(self, measured) -> None:
        """Decide if it is time, else say that this loop is alive; ask for a stand while a sensor is late or frozen, or where the
        policy fails, in whatever way."""
        now = measured.stamp if self.lockstep else self.node.now()
        try:
            due = self.senses.fresh(now) >= self.decided + self.period - 1e-6
            self.answer = self.decide(now, measured) if due else self.body.go_on(measured)
        except Stale as error:
            self.not_now(str(error), measured, error.sensor == AUDIO)
            return
        except Exception as error:
            self.not_now(f"{POLICY}: {type(error).__name__}: {error}", measured)
            return
        self.trouble.be("")
        self.answered, self.unheard = measured.stamp, None
        self.body.send(self.answer)

    def not_now(self, why: str, measured, unheard: bool = False) -> None:
        """Ask for a stand; for sound that is a little late, wait."""
        stamp = measured.stamp
        self.unheard = (stamp if self.unheard is None else self.unheard) if unheard else None
        if unheard and stamp - self.unheard <= self.bounds[1]:
            self.body.send(self.body.go_on(measured))
            return
        self.trouble.be(why)
        self.decided = NEVER  # as soon as it can be
        self.orders.task.unsettled()  # standing like this is not having done it
        if not self.lockstep:
            self.answered, self.answer = stamp, self.body.stand(stamp, why)
            self.body.send(self.answer)

    def decide(self, now: float, measured):
        obs = self.senses.observation(now)
        if self.hear_first(obs) and not self.lockstep:
            self.body.send(self.body.go_on(measured))  # to recognise words takes as long as to decide: alive in between
        chunk = self.policy.act(obs)
        if not self.lockstep:
            self.senses.busy = now, self.node.now()
        self.decided = obs[TIME]
        if self.body.aims:
            self.goal(convert.to_point(self.policy.aim.point, obs[TIME], self.base))
        return self.body.follow(chunk, obs, measured)

    def hear_first(self, obs: dict) -> bool:
        """Take the sound out of an observation; whether other words were spoken in it, which count at once."""
        if AUDIO in obs:
            self.policy.hear(obs[AUDIO], obs[TIME], obs[STATE])
            obs[AUDIO] = obs[AUDIO][:0]
        if not self.orders.hear(self.policy.spoken):
            return False
        obs[TASK] = self.orders.text
        self.senses.instruct(self.orders.text)
        return True

    # ---- standing, and the end

    def come_to_rest(self) -> None:
        """With nothing to do, or where its state does not come, the body stands; at the end, too, which is told first."""
        if not self.connected or (self.deciding and self.node.now() - self.felt_at < LOST):
            return
        if self.ending and self.deadline is None:
            self.deadline = time.monotonic() + LAST
            self.give_up(self.ending)
        stands = self.body.rest(self.node.now(), self.ending)
        if self.ending and (stands or time.monotonic() > self.deadline):
            self.body.halt(self.node.now())
            self.last_words -= 1
        if not self.last_words:
            self.node.stop()

    def wind_down(self) -> None:
        """Bring the body to a stand, then end; in lock-step, where time may stand still, at once. A signal's handler."""
        self.ending = ENDING
        if self.lockstep:
            self.give_up(ENDING)
        if self.lockstep or not self.connected:
            self.node.stop()

    # ---- what is told of itself

    def look(self) -> None:
        """Name what does not come, also while nothing is decided."""
        if self.policy is None:
            return
        if self.node.now() - self.felt_at > LASTING:
            if self.trouble.what != STATE:
                self.trouble.be(f"{STATE}: nothing new has come for more than {LASTING:g} s")
        elif not self.deciding:
            try:
                self.senses.fresh(self.newest if self.lockstep else self.node.now())
                self.trouble.be("")
            except Stale as error:
                self.trouble.be(str(error))

    def report(self) -> None:
        self.look()
        self.trouble.report()


def main() -> int:
    return run("agent", AgentNode, sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
