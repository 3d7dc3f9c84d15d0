"""The supervisor: whatever comes in, what goes out keeps the limits, can be stopped, and says what was done about it."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.arm import PANDA, JointState, fk, ik, tool_pose
from policies.limits import Limits
from policies.safety import Supervisor
from tests.supervised import GENTLE, HOME, TICK, assert_within, details, kinds, moving, proposal, run, standing_where, states


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_random_proposals_never_lead_outside_the_limits(seed):
    """Goals anywhere, also outside the ranges, new ones at any time, and stops in between."""
    rng = np.random.default_rng(seed)
    supervisor, commands = Supervisor(PANDA, GENTLE, HOME, TICK), []
    for k in range(300):
        now = k * TICK
        if rng.random() < 0.06:
            goals = rng.uniform(GENTLE.q_min - 0.5, GENTLE.q_max + 0.5, (int(rng.integers(1, 6)), 7))
            supervisor.propose(proposal(now, goals, hz=rng.uniform(1, 20)), now)
        if rng.random() < 0.01:
            supervisor.stop(now, "tried")
        elif supervisor.stopped and rng.random() < 0.1:
            supervisor.release(now)
        if rng.random() < 0.9:
            supervisor.beat(now)
        commands.append(supervisor.step(now))
    assert_within(commands, GENTLE)


def test_a_slow_proposal_is_followed_to_where_it_leads():
    supervisor = Supervisor(PANDA, Limits.of(PANDA), HOME, TICK)
    goal = HOME.position + np.array([0.2, -0.1, 0.1, 0.2, 0.0, -0.1, 0.3])
    assert supervisor.propose(proposal(0.0, [HOME.position + (goal - HOME.position) * s for s in (0.25, 0.5, 0.75, 1.0)]), 0.0)
    commands = run(supervisor, 1.0)
    np.testing.assert_allclose(commands[-1].motion.q, goal, atol=1e-4)
    np.testing.assert_allclose(commands[20].motion.q, HOME.position + (goal - HOME.position) * 0.525, atol=0.03)
    assert commands[-1].opening == 0.04 and kinds(commands) == [] and not any(c.braking for c in commands)


def test_the_stop_is_the_fastest_that_the_limits_allow():
    """Time to standstill from v with acceleration a and jerk j (v >= a^2 / j): v / a + a / j."""
    supervisor = moving()
    supervisor.motion = supervisor.motion._replace(ddq=np.zeros(7))
    v, a, j = supervisor.motion.dq[0], GENTLE.ddq_max[0], GENTLE.dddq_max[0]
    supervisor.stop(0.6, "button")
    commands = run(supervisor, 1.0, start=0.6)
    still = next(k for k, c in enumerate(commands) if np.abs(c.motion.dq).max() < 1e-6)
    assert (still + 1) * TICK == pytest.approx(v / a + a / j, abs=2 * TICK)
    assert_within(commands, GENTLE)
    assert kinds(commands) == ["stop"]


def test_an_emergency_stop_latches_until_it_is_released():
    supervisor = moving()
    supervisor.stop(0.6, "button")
    run(supervisor, 1.0, start=0.6)
    still = supervisor.motion.q.copy()
    assert not any(supervisor.propose(proposal(1.6, HOME.position), 1.6) for _ in range(3))
    commands = run(supervisor, 0.5, start=1.6)
    assert (states(commands)[0] == still).all() and details(commands).count("stopped: button") == 1
    supervisor.release(2.1)
    commands = run(supervisor, 0.3, start=2.1)
    assert (states(commands)[0] == still).all() and kinds(commands) == ["released"]  # the old proposal is forgotten
    assert supervisor.propose(proposal(2.4, HOME.position, hz=1.0), 2.4)
    assert np.abs(run(supervisor, 0.5, start=2.4)[-1].motion.q - still).max() > 0.05


def test_silence_of_the_deciding_loop_brakes_and_life_goes_on():
    supervisor = moving()
    commands = run(supervisor, 1.0, start=0.6, beat=False)
    first = next(k for k, c in enumerate(commands) if c.braking)
    assert 0.6 + first * TICK - 0.59 == pytest.approx(GENTLE.patience, abs=2 * TICK)
    assert np.abs(commands[-1].motion.dq).max() < 1e-6 and "sign of life" in details(commands)
    again = run(supervisor, 1.0, start=1.6)
    assert kinds(again) == ["going on"] and again[-1].braking  # the old plan is not gone on with
    assert supervisor.propose(proposal(2.6, HOME.position), 2.6) and not run(supervisor, 0.2, start=2.6)[-1].braking


def test_a_proposal_that_is_refused_is_no_sign_of_life():
    supervisor = moving()
    for k in range(100):
        assert not supervisor.propose(proposal(-0.5, HOME.position), 0.6 + k * TICK)  # sent again and again
        supervisor.step(0.6 + k * TICK)
    assert supervisor.stands and supervisor.trouble == "no sign of life from the loop that decides"


def test_joints_that_cannot_have_moved_so_fast_move_nothing_until_a_release():
    """A driver that starts anew and says zero, an encoder that fails; a robot that stands, stopped or not, and one that moves."""
    supervisor = Supervisor(PANDA, GENTLE, HOME, TICK)
    standing = standing_where(supervisor, 0.0, [*np.zeros(10), *np.full(40, -0.4)])
    assert all((c.motion.q == HOME.position).all() for c in standing) and "leapt" in supervisor.trouble
    assert supervisor.propose(proposal(0.5, HOME.position + 0.1), 0.5)
    assert all(c.braking for c in standing_where(supervisor, 0.5, np.full(50, -0.4)))
    supervisor.hold(1.0, "nothing to do")
    supervisor.release(1.0)
    commands = standing_where(supervisor, 1.0, np.full(5, -0.4))
    assert kinds(commands)[-1] == "released" and not supervisor.trouble
    assert all((c.motion.q == HOME.position - 0.4).all() for c in commands)

    standing_where(supervisor, 1.05, [*np.full(5, -0.4), 0.1, *np.full(14, np.nan)])  # which ends no disbelief
    supervisor.release(1.25)
    commands = standing_where(supervisor, 1.25, np.full(50, 0.1))
    assert "refused" in kinds(commands) and "released" not in kinds(commands) and supervisor.leapt
    assert (supervisor.motion.q == HOME.position - 0.4).all()

    supervisor = moving()
    supervisor.observe(JointState(0.6, supervisor.motion.q, 0.08))
    supervisor.observe(JointState(0.61, np.zeros(7), 0.08))
    command = supervisor.step(0.61)
    assert command.braking and "leapt" in command.events[0].detail
    supervisor.observe(JointState(0.62, supervisor.motion.q, 0.08))  # it was wrong for a moment
    supervisor.beat(0.62)
    assert not supervisor.step(0.62).braking


def test_the_end_of_a_stop_does_not_say_that_a_state_is_right_which_has_leapt():
    """A driver that starts anew while the button is pressed, and says zero: that is outside a range, too."""
    supervisor = Supervisor(PANDA, GENTLE, HOME, TICK)
    supervisor.stop(0.0, "button")
    commands = standing_where(supervisor, 0.0, [*np.zeros(10), *np.full(10, -0.4)])
    supervisor.release(0.2)
    commands += standing_where(supervisor, 0.2, np.full(10, -0.4))
    assert not supervisor.stopped and supervisor.leapt and "leapt" in details(commands)
    assert all((c.motion.q == HOME.position).all() for c in commands)
    for position, now, why in ((np.zeros(7), 0.31, "joints at"), (HOME.position - 0.4, 0.6, "0.290 s old")):
        supervisor.observe(JointState(0.31, position, 0.08))
        supervisor.release(now)
        command = supervisor.step(now)
        assert command.events[0].kind == "refused" and why in command.events[0].detail
        assert supervisor.leapt and (command.motion.q == HOME.position).all()


def test_who_is_outside_on_one_side_keeps_to_the_others():
    """A robot that starts beside its workspace may come back, and goes through no floor on the way."""
    low = np.array(fk(PANDA, HOME.position)[:3, 3]) - (0.5, 0.5, 0.02)
    limits = replace(GENTLE, workspace=(tuple(low), (low[0] + 0.3, 9.0, 9.0)))  # 0.2 m outside in x
    supervisor, down = Supervisor(PANDA, limits, HOME, TICK), tool_pose(*fk(PANDA, HOME.position)[:2, 3], low[2] - 0.15, 0.0)
    supervisor.propose(proposal(0.0, ik(PANDA, down, HOME.position), hz=1.0), 0.0)
    commands = run(supervisor, 2.0)
    assert min(fk(PANDA, c.motion.q)[2, 3] for c in commands) > low[2] - 1e-3 and "workspace" in details(commands)


def test_what_is_clipped_or_refused_again_and_again_is_told_once():
    supervisor = Supervisor(PANDA, GENTLE, HOME, TICK)
    wide = HOME.position + np.array([9.0, 0, 0, 0, 0, 0, 0])
    for k in range(20):
        assert supervisor.propose(proposal(k * TICK, wide, hz=0.1), k * TICK)
        assert not supervisor.propose(proposal(k * TICK - 1.5 - 0.01 * (k % 3), HOME.position), k * TICK)
    told = kinds([supervisor.step(0.2)])
    assert told.count("clipped") == 1 and told.count("refused") == 1
    supervisor.propose(proposal(-1.0, HOME.position), 6.0)  # long after the last one
    assert kinds([supervisor.step(6.0)]).count("refused") == 1


def test_an_arm_that_comes_after_its_command_late_is_not_stopped():
    """For a moment it is further behind than it may be."""
    supervisor, commands = Supervisor(PANDA, GENTLE, HOME, TICK), []
    for now in TICK * np.arange(300):
        late = commands[-40].motion.q if len(commands) >= 40 else HOME.position
        supervisor.observe(JointState(now, late, 0.08))
        supervisor.beat(now)
        supervisor.propose(proposal(now, HOME.position + [1.2, 0, 0, 0, 0, 0, 0], hz=2.0), now)
        commands.append(supervisor.step(now))
    kinds = {event.kind for command in commands for event in command.events}
    assert "braking" in kinds and "stop" not in kinds and not supervisor.stopped


def test_joints_that_are_not_finite_are_no_place_to_begin():
    bad = JointState(0.0, np.full(7, np.nan), 0.08)
    with pytest.raises(ValueError, match="start outside"):
        Supervisor(PANDA, GENTLE, bad, TICK)
    with pytest.raises(ValueError, match="7 finite values and one are needed"):
        moving().anchor(bad)


def test_what_is_not_finite_is_no_state_to_begin_in_or_to_go_on_by():
    for bad in (JointState(0.0, HOME.position, np.nan), JointState(0.0, HOME.position[:6], 0.08)):
        with pytest.raises(ValueError):
            Supervisor(PANDA, GENTLE, bad, TICK)
        with pytest.raises(ValueError, match="7 finite values and one"):
            moving().anchor(bad)
    supervisor = moving()
    supervisor.observe(JointState(np.nan, supervisor.motion.q, 0.08))
    supervisor.beat(0.6)
    assert supervisor.step(0.6).braking and supervisor.trouble == "the robot's state is late"


def test_a_force_that_is_limited_has_to_be_measured():
    supervisor = moving(replace(GENTLE, force=40.0))
    supervisor.observe(JointState(0.6, supervisor.motion.q, 0.08), float("nan"))
    assert "not measured" in supervisor.step(0.6).events[0].detail


def test_the_last_of_several_stops_is_the_one_that_is_told():
    supervisor = moving()
    supervisor.stop(0.6, "it ends")
    supervisor.stop(0.6, "button")
    supervisor.stop(0.61, "button")
    assert supervisor.stopped == "button" and details(run(supervisor, 0.1, start=0.61)).count("button") == 1


def test_where_the_stop_ends():
    supervisor = moving()
    seconds, end = supervisor.stop_end()
    supervisor.stop(0.6, "button")
    commands = run(supervisor, 1.0, start=0.6)
    np.testing.assert_allclose(commands[-1].motion.q, end, atol=1e-6)
    assert supervisor.stands and np.abs(commands[round(seconds / TICK) - 2].motion.dq).max() > 0


@pytest.mark.parametrize("change, why", [
    (lambda p: replace(p, positions=p.positions[:, :6]), r"\(3, 6\)"),
    (lambda p: replace(p, positions=np.full_like(p.positions, np.nan)), "NaN"),
    (lambda p: replace(p, openings=np.array([0.0, np.inf, 0.0])), "NaN or inf"),
    (lambda p: replace(p, start=replace(p.start, opening=np.nan)), "NaN or inf"),
    (lambda p: replace(p, times=p.times[::-1]), "increase"),
    (lambda p: replace(p, times=p.times[:2]), "times 2"),
    (lambda p: replace(p, start=replace(p.start, stamp=-2.0)), "old"),
    (lambda p: replace(p, start=replace(p.start, stamp=0.06), times=p.times + 1), "future"),
    (lambda p: replace(p, positions=p.positions + 3.0, start=replace(p.start, position=HOME.position + 3.0)), "begins"),
])
def test_what_is_wrong_is_refused_and_named(change, why):
    supervisor = Supervisor(PANDA, replace(GENTLE, jump=0.5), HOME, TICK)
    good = proposal(0.0, [HOME.position] * 3)
    assert not supervisor.propose(change(good), 0.0)
    (event,) = supervisor.step(0.0).events
    assert event.kind == "refused"
    assert re.search(why, event.detail), event.detail
    assert supervisor.propose(good, 0.0) and not supervisor.propose(proposal(-0.2, [HOME.position]), 0.0)


def nan(supervisor):
    supervisor.propose(replace(proposal(0.6, [HOME.position]), positions=np.full((1, 7), np.nan)), 0.6)


def old(supervisor):
    supervisor.propose(proposal(-0.1, [HOME.position]), 0.6)


@pytest.mark.parametrize("said, kind, stands", [
    (lambda s: s.hold(0.6, "camera front: frozen"), "hold", True), (nan, "refused", True), (old, "refused", False)])
def test_nonsense_or_a_wish_to_stand_ends_the_motion_and_what_is_merely_old_does_not(said, kind, stands):
    supervisor = moving()
    said(supervisor)
    commands = run(supervisor, 1.0, start=0.6)
    assert kinds(commands) == [kind] and commands[0].braking == stands
    assert (np.abs(commands[60].motion.dq).max() < 1e-6) == stands
    assert_within(commands, GENTLE)


@pytest.mark.parametrize("measured, force, why", [
    (JointState(0.3, HOME.position, 0.08), None, "late"),
    (JointState(0.7, HOME.position, 0.08), None, "in the future"),
    (JointState(0.6, np.full(7, np.nan), 0.08), None, "not finite"),
    (JointState(0.6, HOME.position + 1.5, 0.08), None, "not where"),
    (None, 60.0, "contact force"),
])
def test_what_the_robot_says_of_itself_brakes(measured, force, why):
    supervisor = moving(replace(GENTLE, force=40.0))
    supervisor.observe(measured or JointState(0.6, supervisor.motion.q, 0.08), force)
    command = supervisor.step(0.6)
    assert command.braking and why in command.events[0].detail


def test_a_clock_that_goes_back_is_named_and_forgets_what_was_to_be_done():
    supervisor = moving()
    commands = run(supervisor, 1.0, start=0.2)
    assert kinds(commands)[0] == "clock" and np.abs(commands[-1].motion.dq).max() < 1e-6
    assert_within(commands, GENTLE)


def test_a_start_outside_the_limits_is_named():
    with pytest.raises(ValueError, match=r"joints \[4\] start outside"):
        Supervisor(PANDA, Limits.of(PANDA), replace(HOME, position=np.array([0, 0, 0, 0.5, 0, 1, 0])))


def test_where_a_robot_is_put_says_nothing_of_the_force_that_was_measured():
    supervisor = moving(replace(GENTLE, force=40.0))
    supervisor.observe(JointState(0.6, supervisor.motion.q, 0.08), 3.0)
    supervisor.anchor(JointState(0.7, HOME.position + 0.1, 0.02))
    assert supervisor.force == 3.0


def test_a_robot_that_was_put_elsewhere_stands_there_and_a_stop_stays():
    supervisor = moving()
    supervisor.stop(0.6, "button")
    elsewhere = JointState(0.7, HOME.position + 0.1, 0.02)
    supervisor.anchor(elsewhere)
    commands = run(supervisor, 0.3, start=0.7)
    assert (states(commands)[0] == elsewhere.position).all() and commands[-1].opening == 0.02
    assert not supervisor.propose(proposal(1.0, elsewhere.position), 1.0)
    supervisor.release(1.0)
    assert supervisor.propose(proposal(1.0, elsewhere.position), 1.0)
