"""What the agent is to do: what it was told by topic, as a goal or by voice, and whether it may act on it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ros_nodes import convert
from ros_nodes.interfaces import message
from ros_nodes.task_server import TaskServer

STRING, BOOL, EMPTY = (f"std_msgs/msg/{name}" for name in ("String", "Bool", "Empty"))
TWICE = 0.5  # s within which the same instruction is one
SHOWN = 80  # characters of an instruction that is refused
STOPPED, ENDED = "stopped", "stopped: the supervisor ends"  # what the supervisor says; another one may take its place


class Orders:
    """`text` was written and `spoken` said last; "" for nothing. `held`: to stand still until there is something new. `task`
    serves goals, None before `connect`. talk: say aloud what was understood. settled: s, as TaskServer takes it. begin():
    the agent begins anew. idle(): why it takes no orders at all, "" where it does. refuses(text): why it cannot read one."""

    def __init__(self, node, talk: bool, settled: float, begin: Callable[[], None], idle: Callable[[], str],
                 refuses: Callable[[str], str]):
        self.node, self.talk, self.settled, self.begin, self.idle, self.refuses = node, talk, settled, begin, idle, refuses
        self.text, self.spoken, self.held = "", "", False
        self.told = ("", -TWICE)  # the last instruction, and when (s)
        self.task: TaskServer | None = None

    def connect(self, supervised: bool) -> None:
        """supervised: a node stands behind the agent that latches emergency stops; else they latch here."""
        node, self.latches = self.node, not supervised
        self.heard = node.publisher(STRING, "agent/heard", "latched")
        self.saying = node.publisher(STRING, "say", "reliable")
        both = ("latched", "reliable")  # who sends once and for all, and who does not; of what is latched all, not the last alone
        for qos in both:
            node.subscribe(STRING, "instruction", self.instruct, qos)
            node.subscribe(STRING, "episode", self.judged, qos)
        for qos in ("sensor", *both):  # however the button sends
            node.subscribe(BOOL, "emergency_stop", self.emergency, qos)
        if self.latches:
            node.subscribe(EMPTY, "~/release", lambda _: self.supervised(message(STRING)()), "reliable")
        else:
            for qos in both:
                node.subscribe(STRING, "safety_state", self.supervised, qos)
        self.task = TaskServer(node, self.go_for, self.hold, self.settled, self.refusal)

    def waits(self, listens: bool) -> bool:
        """Whether there is nothing to do. listens: the agent would hear it if it was told something."""
        return self.held or not (self.text.strip() or self.spoken or listens)

    def refusal(self, text: str) -> str:
        """Why it does not do what is asked for; "" where it does."""
        return self.idle() or self.stopped or self.refuses(text)

    @property
    def stopped(self) -> str:
        """Why the supervisor takes no motion before it is released; "" where it would."""
        blocked = self.task.blocked
        return blocked if blocked.startswith(STOPPED) and blocked != ENDED else ""

    # ---- what is told

    def instruct(self, said) -> None:
        """What is latched comes twice."""
        now = time.monotonic()
        (text, since), self.told = self.told, (said.data, now)
        if said.data == text and now - since <= TWICE:
            return
        if why := self.refusal(said.data):
            self.node.remark("refused", f"instruction refused: {said.data[:SHOWN]!r}: {why}")
            self.say(f"I cannot: {why}")
        else:
            self.task.interrupted("another instruction came")
            self.go_for(said.data)

    def go_for(self, text: str) -> None:
        """Begin anew with an instruction; with none, listen for a spoken one."""
        self.text, self.spoken, self.held = text, "", False
        self.begin()
        self.node.log(f"told: {text or '(listening)'}")
        self.understood(text)

    def hear(self, words: str) -> bool:
        """Take what was understood while it acts; whether these are other words than before, which count at once and end what was
        written."""
        if words == self.spoken:
            return False
        self.heard(message(STRING)(words))
        self.node.log(f"heard: {words}")
        self.understood(words)
        if words not in ("", self.text):
            if self.text:
                self.task.interrupted("another instruction was spoken")
            self.text, self.held = "", False
        self.spoken = words
        return True

    def take(self, words: str) -> None:
        """Go for what was understood while there was nothing to do."""
        self.heard(message(STRING)(words))
        self.go_for(words)

    def hold(self) -> None:
        """Nothing to do until there is something new: the supervisor brings the robot to a stand."""
        self.text, self.spoken, self.held = "", "", True

    def emergency(self, pressed) -> None:
        """What was asked for is over: after the release the robot waits for a new instruction."""
        if not pressed.data:
            return
        if self.latches:
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
        elif before:
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

    # ---- what is answered

    def understood(self, words: str) -> None:
        if words:
            self.say(f"all right: {words}")

    def say(self, text: str) -> None:
        if self.talk:
            self.saying(message(STRING)(text))
