"""From the records of episodes to figures: counts, rates with intervals, latencies.

A record is a dictionary: task, seed, outcome ("success", "failure" or "error"), latency_ms (one a decision), and more
that is only shown. An error is an episode that crashed: it says nothing of the policy and is left out of every rate.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Any, Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import t as student

OUTCOMES = ("success", "failure", "error")


def wilson(successes: float, episodes: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a rate (Wilson 1927), without continuity correction; (0, 1) where there is no episode."""
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes")
    if episodes == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(0.5 + confidence / 2) ** 2
    rate, n = successes / episodes, episodes
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == episodes else centre + half
    return low, high


def tally(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"successes", "episodes", "errors", "success_rate", "interval"}; the rate is of the episodes without error, None
    where all of them crashed."""
    count = {outcome: sum(r["outcome"] == outcome for r in records) for outcome in OUTCOMES}
    ended = count["success"] + count["failure"]
    return {
        "successes": count["success"],
        "episodes": len(records),
        "errors": count["error"],
        "success_rate": count["success"] / ended if ended else None,
        "interval": list(wilson(count["success"], ended)),
    }


def design_effect(records: Sequence[Mapping[str, Any]]) -> float:
    """How many episodes tell as much as one that is independent of all others, at least 1 (Kish 1965): those of one seed
    share much of the scene and how it is told of. From the spread of the seeds' successes (Rao & Scott 1992)."""
    ended = [r for r in records if r["outcome"] != "error"]
    seeds = {r["seed"] for r in ended}
    won = {seed: [r["outcome"] == "success" for r in ended if r["seed"] == seed] for seed in seeds}
    rate = sum(map(sum, won.values())) / max(len(ended), 1)
    if len(seeds) < 2:
        return float(max(len(ended), 1))  # all of one seed tell no more than one of them
    if len(seeds) == len(ended) or rate in (0.0, 1.0):
        return 1.0
    spread = sum((sum(w) - rate * len(w)) ** 2 for w in won.values()) * len(seeds) / (len(seeds) - 1)
    return max(1.0, spread / (len(ended) * rate * (1 - rate)))


def pooled_interval(records: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Of all tasks together: Wilson's, with as many episodes as tell as much (`design_effect`)."""
    count, effect = tally(records), design_effect(records)
    return wilson(count["successes"] / effect, (count["episodes"] - count["errors"]) / effect)


def difference(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """{"episodes", "difference", "interval"}: our rate less theirs in the episodes (task, seed) that both ended, with its 95%
    interval by the spread of the seeds' differences (Liang & Zeger 1986), to which two pairs are added, a half of each outcome
    (Agresti & Min 2005): without them, where nothing differs nothing would be uncertain. None where they share fewer than two
    seeds."""
    won = [{(r["task"], r["seed"]): r["outcome"] == "success" for r in rs if r["outcome"] != "error"} for rs in (ours, theirs)]
    both = won[0].keys() & won[1].keys()
    seeds = {seed for _, seed in both}
    if len(seeds) < 2:
        return None
    gaps = {seed: [won[0][key] - won[1][key] for key in both if key[1] == seed] for seed in seeds}
    mean = sum(map(sum, gaps.values())) / len(both)
    centre = mean * len(both) / (len(both) + 2)
    spread = sum((sum(gap) - centre * len(gap)) ** 2 for gap in gaps.values()) * len(seeds) / (len(seeds) - 1)
    added = 0.5 * (1 - centre) ** 2 + 0.5 * (1 + centre) ** 2 + centre**2
    half = float(student.ppf(0.975, len(seeds) - 1)) * sqrt(spread + added) / (len(both) + 2)
    return {"episodes": len(both), "difference": mean, "interval": [max(-1.0, centre - half), min(1.0, centre + half)]}


def by_voice(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """{"by_voice": {"episodes", "word_for_word", "success_rate"}} of the episodes that were instructed by voice alone: how many
    instructions were understood word for word, and the rate of success of those (None where there are none), which tells what
    the ears lost from what the hands did. {} where no episode was, or where it is not known of all what was understood."""
    heard = [r for r in records if r.get("told") == "voice"]
    if not all("understood" in r for r in heard):
        return {}
    right = [r for r in heard if r["understood"] == r["instruction"]]
    rate = tally(right)["success_rate"]
    return {"by_voice": {"episodes": len(heard), "word_for_word": len(right), "success_rate": rate}} if heard else {}


def latencies(records: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """{"p50", "p95", "p99"} of every decision, ms; None where no decision was made."""
    values = [ms for r in records for ms in r["latency_ms"]]
    return {f"p{p}": round(float(np.percentile(values, p)), 2) if values else None for p in (50, 95, 99)}


def percent(rate: float | None) -> str:
    return "no figure" if rate is None else f"{100 * rate:.1f}%"


def percents(interval: Sequence[float]) -> str:
    return " to ".join(map(percent, interval))


def results(records: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json holds. Overall figures are of all episodes together, the interval with seeds as clusters; `by_voice`
    is there where episodes were instructed by voice alone."""
    names = [name for name in protocol["tasks"] if any(r["task"] == name for r in records)]
    whole = tally(records)
    return {
        "tasks": {name: tally([r for r in records if r["task"] == name]) for name in names},
        "success_rate": whole["success_rate"],
        "interval": list(pooled_interval(records)),
        "seeds": sorted({r["seed"] for r in records}),
        "protocol": dict(protocol),
        "latency_ms": latencies(records),
        **by_voice(records),
    }


def say_by_voice(figures: Mapping[str, Any]) -> str:
    """What results.json's `by_voice` tells, as a sentence; "" where it has none."""
    if "by_voice" not in figures:
        return ""
    heard = figures["by_voice"]
    return (f"of {heard['episodes']} instructions by voice alone {heard['word_for_word']} were understood word for word: "
            f"{percent(heard['success_rate'])} success in these")
