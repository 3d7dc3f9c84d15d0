"""A node that tests hold in their hands: its clock is turned, its services are called, what it sends is kept."""

from __future__ import annotations

from types import SimpleNamespace

from ros_nodes.arguments import valid
from ros_nodes.interfaces import message
from ros_nodes.transport import Remarks, ignore


class HandNode:
    def __init__(self, **given):
        self.given, self.time, self.running, self.name = given, 100.0, True, "hand"
        self.sent, self.heard, self.services, self.timers, self.said = {}, {}, {}, [], []
        self.remark = Remarks(self.log)
        self.servers = {}  # of services that are called from here: name -> function of the request; None is no answer

    def parameters(self, described):
        return SimpleNamespace(**valid(self.given, described))

    def now(self):
        return self.time

    def give_time(self):
        self.given.pop("use_sim_time", None)

    def publisher(self, kind, topic, qos="reliable"):
        return self.sent.setdefault(topic, []).append

    def listeners(self, topic):
        return 1

    def subscribe(self, kind, topic, callback, qos="reliable"):
        self.heard[topic] = callback

    def service(self, kind, name, answer, later=False):
        """Called by the request's fields; `later`: the call gives a list that the response comes into."""

        def call(**fields):
            request, came = message(f"{kind}_Request")(**fields), []
            if later:
                answer(request, came.append)
                return came
            return answer(request, message(f"{kind}_Response")())

        self.services[name] = call

    def client(self, kind, name):
        def call(request, answered=ignore):
            if name not in self.servers:
                return False
            assert request.INTERFACE == f"{kind}_Request"
            response = self.servers[name](request)
            if response is not None:
                answered(response)
            return True

        return call

    def timer(self, period, callback, once=False):
        self.timers.append([self.time + period, None if once else period, callback])

    def log(self, text):
        self.said.append(text)

    def stop(self):
        self.running = False

    def run(self, seconds, step=0.03):
        """Let time pass, as long as the node runs."""
        for _ in range(round(seconds / step)):
            if self.running:
                self.time += step
                self.tick()

    def tick(self):
        """Call the timers that are due."""
        for timer in [t for t in self.timers if t[0] <= self.time + 1e-9]:
            timer[2]()
            timer[0] = float("inf") if timer[1] is None else max(timer[0] + timer[1], self.time)
