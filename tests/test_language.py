"""The n-grams and the search for words: probabilities are probabilities, and the search finds what enumeration finds."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import language
from agent.language import BLANK, BONUS, LONG, WEIGHT, NGrams

SENTENCES = [[1, 2], [1, 2, 2], [2, 1], [3]]


def ngrams(sentences=SENTENCES, vocabulary=4):
    found = NGrams(vocabulary)
    found.fit(sentences)
    return found


@pytest.mark.parametrize("before", [(), (1,), (3, 3), *itertools.product(range(4), repeat=2)])
def test_what_may_follow_a_token_sums_to_one(before):
    found = ngrams()
    assert sum(math.exp(found.score(before, token)) for token in range(4)) == pytest.approx(1.0)


def test_what_was_seen_often_is_likelier():
    found = ngrams()
    assert found.score([1], 2) > found.score([1], 3) and found.score([], 1) > found.score([], 2)
    assert found.score([1, 2], 2) > found.score([3, 2], 2) > found.score([3, 2], 3)  # what one token tells is not lost


def test_counts_travel_with_the_weights():
    learned, other = ngrams(), ngrams([[3, 3]])
    other.score((3, 3), 3)
    other.load_state_dict(learned.state_dict())
    assert all(other.score((a, b), c) == learned.score((a, b), c) for a, b, c in itertools.product(range(4), repeat=3))


def test_a_long_form_is_remembered_whole():
    """What stands at the end depends on the beginning: three tokens cannot tell."""
    found = ngrams([[1, 3, 3, 3, 1], [2, 3, 3, 3, 2]] * 20)
    assert found.score([1, 3, 3, 3], 1) > found.score([1, 3, 3, 3], 2) + math.log(3)
    assert found.score([3, 3, 3, 3], 1) == pytest.approx(found.score([3, 3, 3, 3], 2))


def test_only_the_most_frequent_rows_are_kept(monkeypatch):
    monkeypatch.setattr(language, "MOST", 2)
    found = ngrams([[1] * (LONG + 1)])
    assert found.rows.tolist()[0] == [*[1] * LONG, 2] and len(found.rows) == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_the_search_finds_the_best_words_of_all(seed, fitted):
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(3, 3, generator=generator).mul(2).log_softmax(-1)
    words = ngrams([[1, 2], [2, 2], [1]], 3) if fitted else NGrams(3)
    best = max(totals(log_probs, words).items(), key=lambda item: item[1])[0]
    found, sure = words.search(log_probs)
    assert tuple(found) == best and 0.0 < sure <= 1.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.booleans(), min_size=8, max_size=8))
def test_frames_that_are_surely_blank_change_nothing_but_the_time_it_takes(seed, blank):
    log_probs = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed)).mul(3).log_softmax(-1)
    log_probs[torch.tensor(blank)] = torch.tensor([1.0, 1e-6, 1e-6, 1e-6]).log().log_softmax(-1)
    few, all_of_them = ngrams(), ngrams()
    found, sure = few.search(log_probs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "SURELY", 0.0)
        assert all_of_them.search(log_probs) == (found, pytest.approx(sure, abs=1e-3))
    assert len(language.collapsed(log_probs.numpy())) == sum(not b or not (i and blank[i - 1]) for i, b in enumerate(blank))


def totals(log_probs, words):
    """Every prefix's score: its alignments' probabilities summed up, and its words'."""
    chances = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        merged = tuple(token for token, _ in itertools.groupby(path) if token != BLANK)
        chances[merged] = chances.get(merged, 0.0) + math.exp(sum(log_probs[t, k].item() for t, k in enumerate(path)))
    bonus = BONUS if words.rows.any() else 0.0

    def said(prefix):
        whole = (*prefix, BLANK)
        return sum(WEIGHT * words.score(whole[:n], token) for n, token in enumerate(whole)) + bonus * len(prefix)

    return {prefix: math.log(chance) + said(prefix) for prefix, chance in chances.items()}


def test_words_that_a_weak_recogniser_swallows_are_put_right():
    """A frame that is a little surer of silence than of a word that nearly always stands there."""
    words = ngrams([[1, 2, 3]] * 50)
    frames = torch.tensor([[0.01, 0.97, 0.01, 0.01], [0.97, 0.01, 0.01, 0.01], [0.5, 0.01, 0.48, 0.01],
                           [0.97, 0.01, 0.01, 0.01], [0.01, 0.01, 0.01, 0.97]]).log()
    assert NGrams(4).search(frames)[0] == [1, 3] and words.search(frames)[0] == [1, 2, 3]


def test_silence_says_nothing():
    assert ngrams().search(torch.tensor([[0.97, 0.01, 0.01, 0.01]] * 5).log())[0] == []
    assert ngrams().search(torch.zeros(0, 4))[0] == []


def test_sureness_is_the_share_of_all_that_might_have_been_said():
    """With a beam that holds every prefix, the shares of all add up to one."""
    log_probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]).log()
    chances = totals(log_probs, NGrams(3))
    found, sure = NGrams(3).search(log_probs)
    whole = sum(math.exp(score) for score in chances.values())
    assert sure == pytest.approx(math.exp(chances[tuple(found)]) / whole, rel=1e-6)
