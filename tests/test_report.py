"""Figures from records (training/scores.py) and the page that shows them (training/report.py, training/film.py)."""

import json
import re
from types import SimpleNamespace

import av
import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from agent.spec import IMAGES
from training import scores
from training.cli import main
from training.film import Film, encode
from training.report import films_of, render

PROTOCOL = {"policy": "p", "split": "new_scenes", "instruct": "text", "tasks": ["reach", "pick_up"], "mute": False}


def record(task="reach", seed=0, outcome="success", **more):
    return {"task": task, "seed": seed, "outcome": outcome, "latency_ms": [1.0], "told": "text", "seconds": 1.0,
            "instruction": "reach the red cube"} | more


counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(successes_of, confidence):
    successes, n = successes_of
    theirs = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert scores.wilson(successes, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(counts)
def test_wilson_is_within_bounds_holds_the_rate_and_is_symmetric(successes_of):
    successes, n = successes_of
    low, high = scores.wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert scores.wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))


def test_wilson_without_episodes_says_nothing_and_refuses_nonsense():
    assert scores.wilson(0, 0) == (0, 1)
    with pytest.raises(ValueError, match="3 successes of 2"):
        scores.wilson(3, 2)


outcomes = st.lists(st.tuples(st.sampled_from(PROTOCOL["tasks"]), st.sampled_from(scores.OUTCOMES)), max_size=40)


@given(outcomes)
def test_results_count_every_episode_once_and_no_error_as_failure(drawn):
    records = [record(task, i, outcome) for i, (task, outcome) in enumerate(drawn)]
    figures = scores.results(records, PROTOCOL)
    assert set(figures) == {"tasks", "success_rate", "interval", "seeds", "protocol", "latency_ms"}
    total = {key: sum(t[key] for t in figures["tasks"].values()) for key in ("successes", "episodes", "errors")}
    assert total["episodes"] == len(records)
    assert total["errors"] == sum(r["outcome"] == "error" for r in records)
    ended = total["episodes"] - total["errors"]
    assert figures["success_rate"] == (total["successes"] / ended if ended else None)
    without = scores.results([r for r in records if r["outcome"] != "error"], PROTOCOL)
    assert (without["success_rate"], without["interval"]) == (figures["success_rate"], figures["interval"])
    json.dumps(figures, allow_nan=False)

def grid(won):
    """Records of an array (seeds, tasks): who succeeded."""
    return [record(str(task), seed, "success" if won[seed, task] else "failure") for seed, task in np.ndindex(won.shape)]


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 99))
def test_the_pooled_interval_knows_that_episodes_of_a_seed_may_stand_and_fall_together(seeds, tasks, seed):
    rng = np.random.default_rng(seed)
    won = rng.random(seeds) < 0.5
    alike = grid(np.tile(won[:, None], tasks))
    effect = scores.design_effect(alike)
    assert effect == pytest.approx(1.0 if tasks == 1 or won.all() or not won.any() else tasks * seeds / (seeds - 1))
    if tasks == 1:
        assert scores.pooled_interval(alike) == scores.wilson(int(won.sum()), seeds)
    assert scores.design_effect(grid(rng.random((seeds, tasks)) < 0.5)) >= 1.0


def test_episodes_of_a_single_seed_tell_no_more_than_one():
    assert scores.pooled_interval(grid(np.ones((1, 16), bool))) == scores.wilson(1, 1)
    assert scores.pooled_interval([]) == (0.0, 1.0)


def test_pooled_intervals_hold_the_rate_as_often_as_they_say():
    """Seeds with success rates of their own (beta-distributed), 20 of them with 16 tasks each."""
    rng, held, plain = np.random.default_rng(0), 0, 0
    for _ in range(400):
        won = rng.random((20, 16)) < rng.beta(4, 1, (20, 1))
        low, high = scores.pooled_interval(grid(won))
        held += low <= 0.8 <= high
        low, high = scores.wilson(int(won.sum()), won.size)
        plain += low <= 0.8 <= high
    assert plain / 400 < 0.8 and 0.91 < held / 400 < 0.99


@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 99))
def test_differences_are_of_what_both_played(seeds, tasks, seed):
    ours, theirs = np.random.default_rng(seed).random((2, seeds, tasks)) < 0.5
    found = scores.difference(grid(ours), grid(theirs))
    assert found["episodes"] == ours.size and found["difference"] == pytest.approx(ours.mean() - theirs.mean())
    back = scores.difference(grid(theirs), grid(ours))
    assert found["interval"] == pytest.approx([-bound for bound in reversed(back["interval"])])
    more = grid(theirs) + [record("elsewhere", 0), record("0", seeds, "error")]
    assert scores.difference(grid(ours) + [record("0", seeds)], more) == found
    assert scores.difference(grid(ours[:1]), grid(theirs)) is None
    low, high = found["interval"]
    assert -1 <= low < high <= 1 and low <= found["difference"] <= high


@pytest.mark.parametrize("shape, ours, theirs", [((20, 1), 0.95, 0.9), ((20, 3), 0.98, 0.93), ((50, 1), 0.98, 0.95)])
def test_intervals_of_differences_hold_near_certainty_too(shape, ours, theirs):
    rng = np.random.default_rng(0)
    found = [scores.difference(grid(rng.random(shape) < ours), grid(rng.random(shape) < theirs))["interval"] for _ in range(300)]
    assert np.mean([low <= ours - theirs <= high for low, high in found]) > 0.93


def test_intervals_of_differences_hold_it_as_often_as_they_say():
    """Seeds of which some are hard for both; one of the two fails a tenth of what the other does not."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        theirs = rng.random((40, 8)) < rng.beta(4, 1, (40, 1))
        ours = theirs & (rng.random(theirs.shape) < 0.9)
        low, high = scores.difference(grid(ours), grid(theirs))["interval"]
        held += low <= -0.1 * 0.8 <= high
    assert 0.91 < held / 400 < 0.99


understood = st.sampled_from([None, "", "reach the red bowl", "reach the red cube"])


@given(st.lists(st.tuples(understood, st.sampled_from(scores.OUTCOMES))))
def test_what_the_ears_lost_is_told_from_what_the_hands_did(drawn):
    """An instruction that was written says nothing of them; where the words of some are not known, nothing is said."""
    heard = [{} if words is None else {"told": "voice", "understood": words} for words, _ in drawn]
    figures = scores.by_voice([record(outcome=outcome, **more) for (_, outcome), more in zip(drawn, heard)])
    unknown = scores.by_voice([record(told="voice", understood="go"), record(told="voice")])
    assert unknown == {}
    spoken = [(words, outcome) for words, outcome in drawn if words is not None]
    right = [outcome for words, outcome in spoken if words == "reach the red cube" and outcome != "error"]
    if not spoken:
        assert figures == {}
        return
    assert figures["by_voice"]["episodes"] == len(spoken)
    assert figures["by_voice"]["word_for_word"] == sum(words == "reach the red cube" for words, _ in spoken)
    assert figures["by_voice"]["success_rate"] == (right.count("success") / len(right) if right else None)


def test_latencies_are_of_decisions_not_of_episodes():
    records = [record(latency_ms=[1.0] * 98), record(seed=1, latency_ms=[100.0, 100.0])]
    assert scores.latencies(records) == {"p50": 1.0, "p95": 1.0, "p99": 100.0}
    assert scores.latencies([]) == {"p50": None, "p95": None, "p99": None}


# ---- side by side


@pytest.fixture
def evaluations(tmp_path):
    """text, voice and others, as `soma eval` leaves them: of 2 tasks and 4 seeds; voice lost one, others crashed once."""
    for name, outcome in (("text", "success"), ("voice", "failure"), ("others", "error")):
        split = "train" if name == "others" else "new_voices"
        records = [record(task, seed) for task in PROTOCOL["tasks"] for seed in range(4)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "protocol.json").write_text(json.dumps(PROTOCOL | {"split": split}))
        lines = [json.dumps(r | ({"outcome": outcome} if (r["task"], r["seed"]) == ("reach", 2) else {})) for r in records]
        (tmp_path / name / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_evaluations_are_shown_side_by_side(evaluations, capsys):
    assert main(["report", ",".join(str(evaluations / name) for name in ("text", "voice", "others"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| task | text | voice | others |"
    assert lines[2] == ("| reach | 4/4, 100.0% (51.0-100.0) | 3/4, 75.0% (30.1-95.4) "
                        "| 3/3, 100.0% (43.9-100.0), 1 crashed |")
    assert lines[4].startswith("| all | 8/8, 100.0% (") and "| 7/8, 87.5% (" in lines[4] and "| 7/7, 100.0% (" in lines[4]
    assert lines[6:] == ["voice against text: -12.5 points (-55.4 to +35.4), in 8 episodes of the same scenes"]


def test_evaluations_that_cannot_be_told_apart_are_named(evaluations, capsys):
    assert main(["report", f"{evaluations / 'text'},{evaluations / 'text'}"]) == 2
    assert "different names" in capsys.readouterr().err


# ---- the page


def test_the_page_needs_no_network_and_tells_text_from_markup():
    records = [record(), record("pick_up", 1, "failure"), record(seed=2, outcome="error", error="<b>Traceback</b>")]
    films = [record(source="videos/a.mp4", told="Told:", instruction="<script>", otherwise=None)]
    page = render(scores.results(records, PROTOCOL), records, films, None)
    assert not re.findall(r"(?:src|href)=\"?(?:https?:)?//", page)
    assert "<script>" not in page and "&lt;b&gt;Traceback" in page
    assert "1 of 3 episodes crashed" in page and "50.0%" in page


def test_the_page_says_what_was_understood_where_it_is_not_what_was_said():
    spoken = [record(seed=seed, told="voice", understood=words) for seed, words in enumerate(["reach the red cube", "", "go on"])]
    films = [r | {"source": "", "told": "told by voice", "otherwise": None} for r in spoken]
    page = render(scores.results(spoken, PROTOCOL), spoken, films, None)
    assert re.findall(r"Understood: (.*?)</strong>", page) == ["nothing", "<q>go on</q>"]
    assert "Of 3 instructions by voice alone 1 were understood word for word: 100.0% success in these." in page


@pytest.mark.parametrize("failures, says", [(1, "All of them. Both cameras"), (2, "Drawn at random. Both cameras")])
def test_the_page_says_whether_its_failures_are_all(failures, says):
    records = [record(seed=seed, outcome="failure") for seed in range(failures)]
    film = records[0] | {"source": "", "told": "Told in writing:", "otherwise": None}
    assert says in render(scores.results(records, PROTOCOL), records, [film], None)


@pytest.mark.parametrize("handicap, says", [
    ({}, "Both cameras, with the sound that the agent heard."), ({"mute": True}, "with the sound that the agent did not hear."),
    ({"blind": True}, "Both cameras, through which the agent saw nothing, with the sound that the agent heard.")])
def test_the_page_says_what_of_its_films_the_agent_did_not_sense(handicap, says):
    film = record() | {"source": "", "told": "Told in writing:", "otherwise": None}
    assert says in render(scores.results([record()], PROTOCOL | handicap), [record()], [film], None)


def test_the_page_says_the_interval_that_results_json_says():
    figures = scores.results(records := grid(np.tile(np.arange(20)[:, None] % 4 > 0, 16)), PROTOCOL | {"tasks": list("0123")})
    page = render(figures, records, [], None)
    assert scores.percents(figures["interval"]) in page and scores.percents(scores.tally(records)["interval"]) not in page


def test_the_page_of_crashes_alone_has_no_figure():
    records = [record(outcome="error", error="boom", latency_ms=[])]
    assert "no figure" in render(scores.results(records, PROTOCOL), records, [], None)


def test_films_are_embedded_and_a_changed_outcome_is_said(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"film")
    counted, filmed = {("reach", 0): record()}, {("reach", 0): record(outcome="failure", video="a.mp4")}
    [shown] = films_of(tmp_path, filmed, counted)
    assert shown["source"].startswith("data:video/mp4;base64,") and shown["otherwise"] == "success"
    assert films_of(tmp_path, {("reach", 0): record(video="gone.mp4")}, counted) == []


# ---- the film


def tone(hz, seconds, rate=16000):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def test_a_film_holds_its_pictures_and_both_ears_apart(tmp_path):
    """A browser's formats: H.264 in 4:2:0, AAC. Left hears a tone, right silence."""
    shades = np.linspace(0, 250, 20).astype(np.uint8)
    pictures = [np.full((64, 128, 3), shade, np.uint8) for shade in shades]
    sound = np.stack([0.3 * tone(440, 2.0), np.zeros(32000, np.float32)], 1)
    encode(tmp_path / "film.mp4", pictures, 10.0, sound, 16000)
    with av.open(str(tmp_path / "film.mp4")) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert audio.codec_context.name == "aac"
        decoded = [f.to_ndarray(format="rgb24").mean() for f in file.decode(video)]
        file.seek(0)
        left, right = np.concatenate([f.to_ndarray() for f in file.decode(audio)], 1)[:, 2000:30000]
    assert decoded[:20] == pytest.approx(shades.tolist(), abs=4)
    assert np.sqrt(np.mean(left**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)
    assert np.abs(right).max() < 0.01


def test_two_cameras_stand_side_by_side_twice_as_large_with_a_ring_where_the_policy_goes():
    class World(gym.Env):
        lazy_images = True
        robot_spec = SimpleNamespace(control_hz=10.0, sample_rate=16000)

        def images(self):
            return {IMAGES + "left": np.zeros((32, 32, 3), np.uint8), IMAGES + "right": np.full((32, 32, 3), 200, np.uint8)}

    spots = {"left": np.array([0.25, 0.75, 0.9]), "right": np.array([0.5, 0.5, 0.1])}  # surely there; hardly there
    plain, ringed = Film(), Film(SimpleNamespace(aim=SimpleNamespace(spots=spots)))
    for film in (plain, ringed):
        film.frame(World(), {})
    (before,), (after,) = plain.pictures, ringed.pictures
    assert before.shape == (64, 128, 3) and before[:, :60].max() == 0 and before[:, 68:].min() == 200
    v, u = np.argwhere((before != after).any(-1)).T
    assert (u.mean(), v.mean()) == pytest.approx((16, 48), abs=0.6) and np.ptp(u) == np.ptp(v) >= 14


def test_a_film_leaves_out_what_was_heard_before_its_first_picture(tmp_path):
    from tests.little_world import LittleWorld

    env, film = LittleWorld(), Film()
    film.frame(env, env.reset(seed=0)[0])
    for _ in range(3):
        film.frame(env, env.step(np.zeros(2, np.float32))[0])
    assert len(film.pictures) == 4 and sum(map(len, film.sound)) == 3 * 1600
    assert film.save(tmp_path / "film.mp4").stat().st_size > 0
