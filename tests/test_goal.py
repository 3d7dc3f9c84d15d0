"""Pointing and deliberating: where the goal is guessed to be, in pictures, by named places, and by all of them together."""

import torch

from agent.generators.goal import CameraPointer, Deliberation, Goal, fused, only_first, point_loss


def test_deliberation_begins_as_the_act_token_and_reads_only_words_that_are_there():
    torch.manual_seed(0)
    deliberation, tool = Deliberation(16, heads=2), torch.randn(2, 3, 3)
    act, words, seen = torch.randn(2, 3, 16), torch.randn(2, 3, 5, 16), torch.arange(5).expand(2, 3, 5) < 3
    named = Goal(torch.randn(2, 3, 5, 3), None, None, torch.randn(2, 3, 5, 16), {}, {})
    begun, (_, spread) = deliberation(act, words, named, seen, tool)
    torch.testing.assert_close(begun[:, :, 0], act)
    assert (spread > 0.4).all()  # m: no guess to speak of
    torch.nn.init.normal_(deliberation.out.weight)
    first, (guess, _) = deliberation(act, words, named, seen, tool)
    padded = torch.where(seen[..., None], words, 7.0)
    elsewhere = named._replace(point=torch.where(seen[..., None], named.point, 3.0))
    again, (as_before, _) = deliberation(act, padded, elsewhere, seen, tool)
    torch.testing.assert_close(again, first)
    torch.testing.assert_close(as_before, guess)
    nothing = Goal(torch.zeros(2, 3, 0, 3), None, None, torch.zeros(2, 3, 0, 16), {}, {})
    deliberation.eval()
    unsaid, _ = deliberation(act, words[:, :, :0], nothing, seen[..., :0], tool)
    assert unsaid.shape == (2, 3, 1, 16)  # nothing was said yet
    deliberation.train()
    moved = named._replace(point=named.point + torch.tensor([0.02, 0.0, 0.0]))
    assert (deliberation(act, words, moved, seen, tool)[0] - first).abs().max() > 1e-2


def test_the_guess_of_named_places_learns_to_stand_behind_one_on_the_way_to_another():
    torch.manual_seed(0)
    deliberation, words = Deliberation(16, heads=2), torch.randn(6, 16)
    learner = torch.optim.Adam(deliberation.parameters(), 3e-3)

    def off(count: int) -> torch.Tensor:
        places = 0.3 * torch.rand(count, 1, 6, 3) + torch.tensor([0.3, -0.15, 0.0])
        thing, square = places[:, :, 1], places[:, :, 4]
        behind = thing - 0.07 * torch.nn.functional.normalize(square - thing, dim=-1)
        named = Goal(places, None, None, torch.zeros(count, 1, 6, 16), {}, {})
        seen, tool = torch.ones(count, 1, 6, dtype=torch.bool), places[:, :, 0] + 0.1
        _, (guess, _) = deliberation(torch.zeros(count, 1, 16), words.expand(count, 1, -1, -1), named, seen, tool)
        return (guess - behind).norm(dim=-1).mean()

    assert off(256) > 0.05
    for _ in range(400):
        loss = off(128)
        learner.zero_grad()
        loss.backward()
        learner.step()
    assert off(256) < 0.015


def test_a_guess_that_is_none_counts_for_nothing():
    torch.manual_seed(0)
    points, spreads, truth = torch.randn(2, 3, 4, 5, 3), torch.rand(2, 3, 4, 5) + 0.1, torch.randn(2, 3, 4, 3)
    none, weight = only_first(None, points[:, :, :, :2]), torch.ones(2, 3, 4)
    more = [torch.cat(pair, 3) for pair in ((points, none[0]), (spreads, none[1]))]
    torch.testing.assert_close(fused(*more), fused(points, spreads))
    losses = [point_loss(Goal(truth, *guesses, None, {}, {}), truth, weight) for guesses in ((points, spreads), more)]
    torch.testing.assert_close(*losses)
    guess, spread = only_first((truth[:, :, 0], spreads[:, :, 0, 0]), points[:, :, :, :2])
    assert torch.equal(guess[:, :, 0, 0], truth[:, :, 0]) and spread[:, :, 1:].isinf().all() and not spread[:, :, 0].isinf().any()


def test_fused_guess_follows_the_surest():
    points, spreads = torch.randn(3, 4, 3), torch.rand(3, 4) + 0.1
    spreads[:, 2] = 1e-4
    torch.testing.assert_close(fused(points, spreads), points[:, 2], atol=1e-4, rtol=0)
    torch.testing.assert_close(fused(points, torch.ones(3, 4)), points.mean(1))


def test_spot_is_where_the_grid_is_pointed_at():
    """One cell that stands out is found at its own place, moved by what it says of its inside; a hidden camera sees
    nothing."""
    torch.manual_seed(0)
    pointer = CameraPointer(asked=4, width_in=6, side=8, width=16)
    grid = torch.zeros(1, 1, 8, 8, 6)
    with torch.no_grad():
        for layer in (pointer.position, pointer.query[2], pointer.key, pointer.place):
            layer.weight.zero_()
            layer.bias.zero_()
        pointer.query[2].bias[0] = 400.0
        pointer.key.weight[0, 0] = 1.0
        pointer.place.weight[0, 1] = 1.0
    grid[0, 0, 5, 2, 0], grid[0, 0, 5, 2, 1] = 1.0, 0.5
    survey = pointer.survey(grid)
    logits, spot, found = pointer(torch.zeros(1, 1, 1, 4), survey, None)
    torch.testing.assert_close(spot[0, 0, 0], torch.tensor([(2 * 2 + 1 + 0.5) / 8 - 1, (2 * 5 + 1) / 8 - 1]), atol=2e-3, rtol=0)
    assert found[0, 0, 0, 2] > 0.99 and logits.shape == (1, 1, 1, 65)
    assert pointer(torch.zeros(1, 1, 1, 4), survey, torch.tensor([True]))[2][..., :3].abs().max() < 1e-3
