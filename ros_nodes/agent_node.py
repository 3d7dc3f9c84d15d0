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
from ros_nodes.interfaces import message
from ros_nodes.lifecycle import ACTIVE, Lifecycle
from ros_nodes.task_server import TaskServer
from ros_nodes.trouble import LASTING, POLICY, Trouble

STRING, BOOL, EMPTY = (f"std_msgs/msg/{name}" for name in ("String", "Bool", "Empty"))
TWICE = 0.5  # s within which the same instruction is one
ECHO = 0.3  # s for which a room and a loudspeaker's buffers go on with what was said
SHOWN = 80  # characters of an instruction that is refused
QUICKEST = 0.008  # s between two joint states that are answered
NEVER = -1e9  # s
STOPPED, ENDED = "stopped", "stopped: the supervisor ends"  # what the supervisor says; another one may take its place


class AgentNode:
    """Decides each `period` s of what its sensors' stamps say, on the newest observation that all of them agree on. Each
    state of its body (ros_nodes/bodies.py) that brings nothing to decide is answered, too: a sign of life of this loop.
    While a sensor is late, missing or frozen, or the policy fails, which diagnostics name, a stand is asked for. A stamp that
    goes back begins everything anew. What the supervisor has stopped takes no instruction before it is released.

    A managed node: `configure` loads the weights and subscribes, `activate` begins to decide, `deactivate` falls silent,
    so that the supervisor brings the robot to a stand and holds it, `cleanup` frees the weights. The action execute_task
    takes an instruction as a goal (ros_nodes/task_server.py).
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
        self.lockstep, self.base, self.talk, self.settled = asked.lockstep, asked.base, asked.talk, asked.settled
        self.topics = lambda names: convert.camera_topics(names, asked.cameras, asked.compressed)
        self.text, self.spoken, self.held, self.task = "", "", False, None
        self.felt_at = self.newest = NEVER  # when the last joint state with a new stamp had been answered; that stamp, s
        self.told = ("", -TWICE)  # the last instruction, and when (s)
        self.trouble = Trouble(node, self.say, lambda: self.life.state)
        node.timer(1.0, self.report)
        self.life = Lifecycle(node, {"configure": self.configure, "activate": self.begin, "cleanup": self.free,
                                     **{label: self.ending(label) for label in ("deactivate", "shutdown")}})
        if asked.autostart:
            self.life.change("configure")
            self.life.change("activate")

    def configure(self) -> None:
        """Raises CheckpointError for no such weights, ArgumentError for those of another body, or than before `cleanup`."""
        policy = self.load()
        spec = policy.model.spec
        if spec.senses:
            raise ArgumentError(f"the weights feel {', '.join(spec.senses)}, for which there is no topic")
        if self.task is not None and spec != self.spec:
            raise ArgumentError("these weights sense or move something else than those before: start the node anew")
        policy.warm_up()
        if self.task is None:
            self.subscribe(spec)
        self.policy = policy
        self.begin()

    def free(self) -> None:
        """Let go of the weights, and of what was asked for."""
        self.policy = None
        self.hold()
        self.trouble.be("")
        torch.cuda.empty_cache()

    def ending(self, label: str) -> Callable[[], None]:
        return lambda: self.task and self.task.interrupted(f"{label} was asked for")

    def subscribe(self, spec) -> None:
        node, topics = self.node, self.topics(spec.cameras)
        sensor = "reliable" if self.lockstep else "sensor"  # which takes what is sent either way
        self.body.connect(node, spec, self.configured(self.felt), self.configured(self.commanded), sensor)
        self.spec = spec
        self.heard = node.publisher(STRING, "agent/heard", "latched")
        self.saying = node.publisher(STRING, "say", "reliable")
        self.goal = node.publisher(convert.POINT_STAMPED, "agent/goal", "reliable")
        for name, topic in topics.items():
            kind = convert.COMPRESSED if topic.endswith(convert.COMPRESSED_END) else convert.IMAGE
            node.subscribe(kind, topic, self.configured(self.picture_of(name)), sensor)
        if spec.microphones:
            node.subscribe(convert.AUDIO, "audio", self.configured(self.audio), "stream")
            node.subscribe(convert.AUDIO, "speech", self.configured(self.own_voice), "reliable")
        for qos in ("latched", "reliable"):  # who sends once and for all, and who does not
            node.subscribe(STRING, "instruction", self.configured(self.instruct), qos)
        for qos in ("sensor", "reliable", "latched"):  # however the button sends
            node.subscribe(BOOL, "emergency_stop", self.emergency, qos)
        if self.body.supervised:
            node.subscribe(STRING, "safety_state", self.supervised, "latched")
        else:
            node.subscribe(EMPTY, "~/release", lambda _: self.supervised(message(STRING)()), "reliable")
        node.subscribe(STRING, "episode", self.judged, "latched")
        self.task = TaskServer(node, self.go_for, self.hold, self.settled,
                               lambda: self.stopped if self.life.state == ACTIVE else "the agent is not active")

    def configured(self, callback: Callable) -> Callable:
        """Without weights there is nobody to take a message."""
        return lambda value: callback(value) if self.policy is not None else None

    def begin(self) -> None:
        """Forget what was sensed, heard and commanded, not the instruction, written or spoken."""
        self.policy.reset(self.spec, self.seed)
        self.policy.spoken = self.spoken
        self.senses = Senses(self.spec, *self.bounds)
        self.senses.instruct(self.text)
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

    def instruct(self, said) -> None:
        """What is latched comes twice."""
        now = time.monotonic()
        (text, since), self.told = self.told, (said.data, now)
        if said.data == text and now - since <= TWICE:
            return
        if self.stopped:
            self.node.remark("refused", f"instruction refused: {said.data[:SHOWN]!r}: {self.stopped}")
            self.say(f"I cannot: {self.stopped}")
        else:
            self.task.interrupted("another instruction came")
            self.go_for(said.data)

    @property
    def stopped(self) -> str:
        """Why the supervisor takes no motion before it is released; "" where it would."""
        blocked = self.task.blocked
        return blocked if blocked.startswith(STOPPED) and blocked != ENDED else ""

    def go_for(self, text: str) -> None:
        """Begin anew with an instruction; with none, listen for a spoken one."""
        self.text, self.spoken, self.held = text, "", False
        self.begin()
        self.node.log(f"told: {text or '(listening)'}")
        self.understood(text)

    def hold(self) -> None:
        """Fall silent until there is something new to do: the supervisor brings the robot to a stand."""
        self.text, self.spoken, self.held, self.pending = "", "", True, None

    def emergency(self, pressed) -> None:
        """What was asked for is over: after the release the robot waits for a new instruction. Where no supervisor stands behind
        it, it latches here."""
        if not pressed.data:
            return
        if not self.body.supervised:
            self.supervised(message(STRING)(f"{STOPPED}: emergency stop"))
        self.hold()
        self.task.interrupted("emergency stop")

    def supervised(self, said) -> None:
        """What the supervisor does not let happen is not done by standing still. What was said before a release does not count
        after it."""
        before, self.task.blocked = self.stopped, said.data
        if said.data.startswith(STOPPED):
            self.hold()
            self.task.interrupted(said.data)
        elif before and self.policy is not None:
            self.told = ("", -TWICE)
            self.begin()

    def judged(self, episode) -> None:
        """What a simulated robot says about its episode."""
        try:
            success = convert.from_episode(episode)
        except convert.ConvertError as error:
            self.node.remark("episode", f"passed over: {error}")
            return
        self.task.judged(success)

    def commanded(self, moving: bool) -> None:
        """The robot was told where to be, or how fast."""
        self.task.commanded(moving)
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
            self.body.rest(measured)
            self.listen(measured)
        elif not self.lockstep or (self.senses.complete(measured.stamp) and self.knows_command(measured.stamp)):
            self.pending = None
            self.live(measured)

    @property
    def deciding(self) -> bool:
        return self.life.state == ACTIVE and not self.held

    def listen(self, measured) -> None:
        """Held, and free to move, it waits for a spoken instruction."""
        if self.life.state != ACTIVE or not self.spec.microphones or self.stopped:
            return
        try:
            samples = self.senses.take_sound(measured.stamp)
        except Stale:
            return
        self.policy.spoken = ""  # the same words may be said once more
        if len(samples):
            self.policy.hear(samples, measured.stamp, self.body.state(measured))
        if words := self.policy.spoken:
            self.heard(message(STRING)(words))
            self.go_for(words)

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
        self.task.unsettled()  # standing like this is not having done it
        if not self.lockstep:
            self.answered, self.answer = stamp, self.body.stand(measured, why)
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
        if self.policy.spoken == self.spoken:
            return False
        self.spoken = self.policy.spoken
        self.heard(message(STRING)(self.spoken))
        self.node.log(f"heard: {self.spoken}")
        self.understood(self.spoken)
        if self.spoken not in ("", self.text):  # what was written before counts no more
            if self.text:
                self.task.interrupted("another instruction was spoken")
            self.text = obs[TASK] = ""
            self.senses.instruct("")
        return True

    def understood(self, words: str) -> None:
        if words:
            self.say(f"all right: {words}")

    def say(self, text: str) -> None:
        if self.talk:
            self.saying(message(STRING)(text))

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
