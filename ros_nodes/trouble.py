"""What keeps an agent from deciding: named once in the log, all the time in the diagnostics, and aloud where it lasts."""

from __future__ import annotations

from collections.abc import Callable

from ros_nodes import convert

LASTING = 1.0  # s of trouble that are worth a word: it could cover an instruction
POLICY = "policy"  # what fails where it is no sensor


class Trouble:
    """`text` begins with the sensor that is late or missing, or with POLICY, and a colon; "" without trouble. say(words): aloud.
    state(): what the diagnostics say then."""

    def __init__(self, node, say: Callable[[str], None], state: Callable[[], str]):
        self.node, self.say, self.state, self.text = node, say, state, ""
        self.since, self.announced = 0.0, False  # when it began (s), and whether that was said aloud
        self.diagnostics = node.publisher(convert.DIAGNOSTICS, "/diagnostics", "reliable")

    @property
    def what(self) -> str:
        return self.text.partition(":")[0]

    def be(self, text: str) -> None:
        before, self.text = self.what, text
        if self.what == before:
            return
        self.node.remark(f"trouble {self.what}", text or "all sensors are back")
        self.since = self.node.now()
        if self.announced:
            self.say("going on")
            self.announced = False
        self.tell()

    def report(self) -> None:
        if self.text and not self.announced and self.node.now() - self.since > LASTING:
            self.announced = True
            self.say("I cannot decide what to do" if self.what == POLICY else f"waiting for {self.what.rpartition('.')[2]}")
        self.tell()

    def tell(self) -> None:
        level, text = (convert.WARN, self.text) if self.text else (convert.OK, self.state())
        self.diagnostics(convert.to_diagnostics(f"{self.node.name}: senses", level, text, self.node.now()))
