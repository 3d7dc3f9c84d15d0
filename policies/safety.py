"""A supervisor between whoever decides and the robot: what leaves it keeps every limit, and can always be stopped in time.

No clock, thread, file or ROS in it: time is an argument, so the simulator, a ROS node and a test run the same code.

At every tick the joints follow what was proposed under limits of velocity, acceleration and jerk (ruckig, Berscheid &
Kroeger, "Jerk-limited real-time trajectory generation with arbitrary target states", RSS 2021). The next state is taken
only if the fastest stop from there stays inside the joints' ranges and the workspace and touches nothing; otherwise the
stop of the present state is driven, which was found good one tick before. So there is always a way out.

Legend: J joints, rad and s; the TCP in m, base frame.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from envs.arm import Arm, JointState, JointTrajectory, fk
from policies.limits import Limits
from policies.planner import Motion, Planner, Trajectory, at

FUTURE = 0.05  # s by which a stamp may be ahead of the clock
GAIN = 20.0  # rad/s of speed a rad behind what is followed
CALM = 0.5  # s without trouble after which it is said to be over
STALE = 5.0  # s after which it is news that a proposal is refused for the same reason as the one before
SILENCE = "no sign of life from the loop that decides"
PRESSES = "contact force over its limit"
ASTRAY = "the robot is not where it was commanded to be"
BEHIND = "the robot stays behind what it is commanded: something holds it back"
LEAPT = "the robot's state has leapt: a release takes the robot as it is"
STANDS = 1e-9  # rad/s, rad/s^2
AWAY = 0.1  # s for which a robot is measured away from where it was to stand, before the command goes there
HELD = 1.0  # s for which a robot stays behind a command that stands, before it is stopped: longer than somebody bumps into it
NEAR = 0.1  # of Limits.drift: how close to there is close enough, for an arm that does not sag
SAG = 2.0  # times as far from its command as an arm stood by itself, as its servo and its load let it, is close enough, too
STILL = 0.05  # rad/s of a joint that is measured at a stand
LEAP = 2.0  # of the fastest that a joint moves: faster than that, beyond Limits.drift, no joint has moved but its state has leapt
NUMBER = re.compile(r"[\d.]+")
SAMPLE = 0.02  # s between the points of a stop that are looked at


class Event(NamedTuple):
    """An intervention, or the end of one."""

    time: float
    kind: str
    detail: str


@dataclass(frozen=True, eq=False)
class Command:
    """What the robot is to do by the end of the coming period. braking: not following what was proposed."""

    motion: Motion
    opening: float  # m
    braking: bool
    events: tuple[Event, ...]  # since the command before


class Supervisor:
    """observe, beat, propose and stop say what comes in, in any order; `step` is called once a period.

    room: joint angles (J,) -> how far (m) the body is from touching, below 0 where it does, and what touches what
    (envs.collision.Body.closest). Events are for an append-only
    log, which the caller keeps. An emergency stop latches until `release`. Raises ValueError for a start that is outside the
    limits or not finite.
    """

    def __init__(self, arm: Arm, limits: Limits, start: JointState, period: float = 0.01,
                 room: Callable[[np.ndarray], tuple[float, str]] | None = None):
        q = np.asarray(start.position, float)
        outside = ~((q >= limits.q_min) & (q <= limits.q_max))
        if outside.any() or not np.isfinite(start.opening):
            raise ValueError(f"joints {np.flatnonzero(outside) + 1} start outside their limits: {q[outside]}; "
                             f"opening {start.opening}")
        self.arm, self.limits, self.period, self.room = arm, limits, period, room
        self.motion, self.opening = Motion(q, np.zeros_like(q), np.zeros_like(q)), float(start.opening)
        self.planner = Planner(len(q), period)
        self.proposal: JointTrajectory | None = None
        self.stopped = ""  # why, while an emergency stop is latched
        self.held = ""  # why the loop that decides wants a stand
        self.refused, self.refused_at = "", -np.inf  # why the last one of those proposals was, without numbers; when
        self.clips = False  # whether the last proposal had to be clipped
        self.alive = self.measured = self.force = None  # times of the last signs of life; the last JointState; N
        self.now, self.events = -np.inf, []
        self.trouble, self.troubled = "", -np.inf  # the last one, "" once it is over; when it was there last
        self.silent = self.leapt = self.yields = False  # who decides is; the robot's state has; a stand goes where the robot is
        self.believed: JointState | None = None  # the last state before it leapt
        self.away_since = self.behind_since = None  # s
        self.still, self.sag = False, 0.0  # whether the joints are measured at a stand; rad off the command at which they stood

    # ---- what comes in

    def beat(self, now: float) -> None:
        """A sign of life from the loop that decides, not from a thread beside it."""
        self.alive = now

    def observe(self, measured: JointState, force: float | None = None) -> None:
        """What the robot says of itself; its stamp is when it was measured. A state that no joint can have come to since the one
        before is not believed, nor are those after it, until one is where the command is or there is a `release`."""
        if self.measured is not None and (passed := measured.stamp - self.measured.stamp) > 0:
            self.still = bool((np.abs(measured.position - self.measured.position) <= STILL * passed).all())
        self.measured, self.force = measured, force
        self.leapt = not self.deviation <= self.limits.drift if self.leapt else self._leaps(measured)  # NaN ends nothing
        if not self.leapt and np.isfinite(measured.position).all():
            self.believed = measured

    def _leaps(self, measured: JointState) -> bool:
        if self.believed is None:
            return False
        passed = np.clip(measured.stamp - self.believed.stamp, 0.0, self.limits.patience)
        moved = np.abs(measured.position - self.believed.position)
        return bool((moved > self.limits.drift + LEAP * self.limits.dq_max * passed).any())

    def hold(self, now: float, why: str, kind: str = "hold") -> None:
        """The deciding loop lives, and wants the robot to stand: it does not sense what it would act on."""
        self.beat(now)
        about = why.partition(":")[0]
        if self.proposal is not None or about != self.held:
            self._note(now, kind, why)
        self.proposal, self.held = None, about

    def propose(self, proposal: JointTrajectory, now: float) -> bool:
        """Whether what a policy wants is taken over. What is refused changes nothing and is no sign of life; after what makes
        no sense, such as NaN, the robot is brought to a stand."""
        if why := self.nonsense(proposal):
            self.hold(now, why, "refused")
            return False
        if why := self.fault(proposal, now):
            if (about := NUMBER.sub("", why)) != self.refused or now - self.refused_at > STALE:
                self._note(now, "refused", why)
            self.refused, self.refused_at = about, now
            return False
        self.beat(now)
        low, high = self.limits.q_min, self.limits.q_max
        clipped = bool((self.beyond(proposal.positions) > 0).any())
        if clipped and not self.clips:  # one that follows another is no news
            self._note(now, "clipped", "positions outside the joints' ranges")
        self.clips = clipped
        self.held = ""
        self.proposal = replace(proposal, positions=np.clip(proposal.positions, low, high))
        return True

    def nonsense(self, proposal: JointTrajectory) -> str:
        """Why a proposal is none, "" where it is one."""
        start = proposal.start
        numbers = (proposal.times, proposal.positions, proposal.openings, start.position, start.opening)
        shape, joints = np.shape(proposal.positions), len(self.motion.q)
        if len(shape) != 2 or shape[1] != joints or not len(proposal.times) == len(proposal.openings) == shape[0] > 0:
            return f"positions {shape}, times {len(proposal.times)}: (T, {joints}) with T >= 1 and T times are needed"
        if not all(np.isfinite(x).all() for x in numbers) or not np.isfinite(proposal.stamp):
            return "NaN or infinite values"
        if (np.diff(proposal.times) <= 0).any() or proposal.times[0] <= proposal.stamp:
            return "times that do not increase"
        return ""

    def fault(self, proposal: JointTrajectory, now: float) -> str:
        """Why a proposal cannot be followed now, "" where it can."""
        if self.stopped:
            return f"stopped: {self.stopped}"
        if proposal.stamp > now + FUTURE:
            return f"stamp {proposal.stamp - now:.3f} s in the future"
        if now - proposal.stamp > self.limits.oldest:
            return f"observation {now - proposal.stamp:.3f} s old, {self.limits.oldest} s are allowed"
        if self.proposal is not None and proposal.stamp < self.proposal.stamp:
            return "made from an older observation than what is being followed"
        jump = np.abs(proposal.at(now)[0] - self.motion.q).max()
        return f"begins {jump:.3f} rad from the command, {self.limits.jump} are allowed" if jump > self.limits.jump else ""

    def stop(self, now: float, reason: str) -> None:
        """Emergency stop: brakes at once and stays, whatever is proposed, until `release`. Of several reasons the last one
        is kept."""
        if reason != self.stopped:
            self._note(now, "stop", reason)
        self.stopped, self.proposal = reason, None

    def release(self, now: float) -> None:
        """The explicit end of an emergency stop, or else of not believing the robot's state, which is stood at then; what was
        proposed before is forgotten. There is none as long as the robot cannot be where its state says, or its state is old."""
        if self.stopped:
            self._note(now, "released", self.stopped)
        elif self.leapt and (why := self._unbelievable(now)):
            self._note(now, "refused", f"release: {why}")
            return
        elif self.leapt:
            self._note(now, "released", LEAPT)
            self.anchor(self.measured)
        self.stopped = self.trouble = self.refused = ""
        self.proposal, self.silent = None, False

    def _unbelievable(self, now: float) -> str:
        """Why the robot cannot be taken where its state says that it is; "" where it can."""
        q, age = self.measured.position, now - self.measured.stamp
        if not np.isfinite(q).all() or (self.beyond(q) > 0).any():
            return f"joints at {q}"
        return f"the robot's state is {age:.3f} s old" if age > self.limits.patience else ""

    def anchor(self, state: JointState) -> None:
        """The robot was put elsewhere (a simulation began anew, somebody led it by hand): stand still there. An emergency
        stop stays. Raises ValueError for what is not finite."""
        q = np.array(state.position, float)
        if q.shape != self.motion.q.shape or not np.isfinite([*q, state.opening]).all():
            raise ValueError(f"joints at {q}, opening {state.opening}: {len(self.motion.q)} finite values and one are needed")
        self.motion, self.opening, self.proposal = Motion(q, np.zeros_like(q), np.zeros_like(q)), float(state.opening), None
        self.leapt, self.believed = False, None
        self.observe(state, self.force)

    # ---- what goes out

    def step(self, now: float) -> Command:
        """The command for the period from `now` on."""
        if now < self.now:
            self._note(now, "clock", f"went back by {self.now - now:.3f} s")
            self.proposal = self.alive = self.away_since = None
            self.troubled = now
        self.now, self.silent = now, self._silent(now)
        trouble = self.stopped or self.late(now) or (SILENCE if self.silent else "")
        if self._stays_behind(now, trouble):
            self.stop(now, trouble := BEHIND)
        if self.silent or trouble == PRESSES:
            self.proposal = None  # what was planned before is not gone on with
        following = None if trouble or self.proposal is None else self.follow(now)
        if following is not None and (trouble := self.unstoppable(following)):
            following = None
        self._remark(now, trouble)
        self._give_way(now)
        if following is None:
            self.motion = self.giving_way() if self.yields else at(self.stopping(), self.period)
        else:
            self.motion, self.opening = following, self._opening(now)
        events, self.events = tuple(self.events), []
        return Command(self.motion, self.opening, following is None, events)

    def _stays_behind(self, now: float, trouble: str) -> bool:
        """Whether a robot that is wanted elsewhere has not come to where its command was brought to a stand."""
        behind = trouble == ASTRAY and self.proposal is not None and self.stands
        self.behind_since = (now if self.behind_since is None else self.behind_since) if behind else None
        return behind and now - self.behind_since >= HELD

    def _remark(self, now: float, trouble: str) -> None:
        """Note trouble that is new, and trouble that is over."""
        if trouble:
            if trouble != self.trouble and not self.stopped:
                self._note(now, "braking", trouble)
            self.trouble, self.troubled = trouble, now
        elif self.trouble and now - self.troubled > CALM:
            self._note(now, "going on", self.trouble)
            self.trouble = ""

    def late(self, now: float) -> str:
        """Why nothing may be followed now, "" if it may."""
        limits = self.limits
        if self.measured is None:
            return ""
        if not now - self.measured.stamp <= limits.patience:
            return "the robot's state is late"
        if self.measured.stamp > now + FUTURE:
            return "the robot's state is stamped in the future"
        if not np.isfinite(self.measured.position).all():
            return "the robot's state is not finite"
        if self.leapt:
            return LEAPT
        if self.presses:
            return PRESSES
        if self.deviation > limits.deviation:
            return ASTRAY
        return "the contact force is not measured" if np.isfinite(limits.force) and (
            self.force is None or np.isnan(self.force)) else ""

    def _silent(self, now: float) -> bool:
        """Whether there is, or lately was, something to follow, and no sign of life from who wanted it."""
        waiting = self.proposal is not None or self.silent
        return waiting and (self.alive is None or now - self.alive > self.limits.patience)

    @property
    def deviation(self) -> float:
        """Of the joints from the command, rad."""
        return float(np.abs(self.measured.position - self.motion.q).max())

    def _give_way(self, now: float) -> None:
        """See whether a command to stand goes where the robot is: somebody, or another controller, has moved it there, or it
        presses too hard on something. A state of long ago does not say so, nor does one that is wrong for a moment."""
        known, stands = self._known(now), self.stands
        away = known and self.proposal is None and (stands or self.yields) and (self.presses or self.deviation > self.near)
        self.away_since = (now if self.away_since is None else self.away_since) if away else None
        yields = away and (self.presses or now - self.away_since >= AWAY)
        if yields and not (self.yields or self.presses):
            self._note(now, "moved", "the robot was moved while it stood")
        if known and stands and self.still and not away:
            self.sag = self.deviation
        self.yields = yields

    @property
    def near(self) -> float:
        """How far from where the robot is a command to stand may be, rad. One that goes there comes no closer than the arm sags:
        it would be led on and on by the weight that the arm carries."""
        drift = self.limits.drift
        return min(drift, NEAR * drift + SAG * self.sag) if self.yields else drift

    def _known(self, now: float) -> bool:
        """Whether it is known where the robot is."""
        state = self.measured
        return (state is not None and not self.leapt and abs(now - state.stamp) <= self.limits.patience
                and bool(np.isfinite(state.position).all()))

    @property
    def presses(self) -> bool:
        return (self.force or 0.0) > self.limits.force

    @property
    def stands(self) -> bool:
        """Whether what is commanded is a stand."""
        return bool(np.abs(self.motion.dq).max() < STANDS and np.abs(self.motion.ddq).max() < STANDS)

    def stopping(self) -> Trajectory:
        """The fastest stop."""
        return self.planner.to_speed(self.motion, np.zeros_like(self.motion.q), self.limits)

    def giving_way(self) -> Motion:
        """The next state on the way to where the robot is. Out of what is allowed it is not followed, unless it presses."""
        motion = at(self.planner.to_stand(self.motion, self.measured.position, self.limits), self.period)
        return motion if self.presses or not self.unstoppable(motion) else at(self.stopping(), self.period)

    def stop_end(self) -> tuple[float, np.ndarray]:
        """Where the fastest stop from the present command ends: s from now, joints (J,)."""
        way = self.stopping()
        return way.duration, at(way, way.duration).q

    def follow(self, now: float) -> Motion:
        """The next state on the way to where the proposal is, at its speed: the error is pulled in at GAIN, no faster than
        can be braked again."""
        (here, _), (there, _) = self.proposal.at(now), self.proposal.at(now + self.period)
        error = here - self.motion.q
        pull = np.sign(error) * np.minimum(GAIN * np.abs(error), np.sqrt(self.limits.ddq_max * np.abs(error)))
        speed = np.clip((there - here) / self.period + pull, -self.limits.dq_max, self.limits.dq_max)
        return at(self.planner.to_speed(self.motion, speed, self.limits), self.period)

    def unstoppable(self, motion: Motion) -> str:
        """What forbids a state: where its fastest stop would lead; "" for nothing. What is outside already may come back."""
        way = self.planner.to_speed(motion, np.zeros_like(motion.q), self.limits)
        ticks = [at(way, t).q for t in np.arange(0.0, way.duration + self.period, self.period)]
        if (self.beyond(np.array(ticks)) > np.maximum(0.0, self.beyond(self.motion.q)) + 1e-9).any():
            return "a joint would leave its range"
        tight = min(0.0, self.room(self.motion.q)[0]) if self.room is not None else 0.0
        away = np.maximum(0.0, self.outside(self.motion.q))
        for q in ticks[:: -max(1, round(SAMPLE / self.period))]:
            if (self.outside(q) > away + 1e-9).any():
                return "the tool would leave the workspace"
            gap, what = self.room(q) if self.room is not None else (0.0, "")
            if gap < tight - 1e-6:
                return f"would touch: {what}"
        return ""

    def beyond(self, q: np.ndarray) -> np.ndarray:
        """How far each of joint angles (..., J) is outside its range, rad; below 0 inside."""
        return np.maximum(self.limits.q_min - q, q - self.limits.q_max)

    def outside(self, q: np.ndarray) -> np.ndarray:
        """How far the tool is outside the workspace at joint angles (J,), by its axes (3,), m; below 0 inside."""
        low, high = np.array(self.limits.workspace or ((-np.inf,) * 3, (np.inf,) * 3))
        tool = fk(self.arm, q)[:3, 3]
        return np.maximum(low - tool, tool - high)

    def _opening(self, now: float) -> float:
        return float(np.clip(self.proposal.at(now + self.period)[1], 0.0, self.arm.max_opening))

    def _note(self, now: float, kind: str, detail: str) -> None:
        self.events.append(Event(now, kind, detail))
