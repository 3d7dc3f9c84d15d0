"""The model's mathematics: who sees whom, packing, streaming, sampling, saving."""


import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.generators.flow import FlowMatching, Prefix
from agent.grounding import KINDS, LayoutHead, SourceHead, cells
from agent.layout import Layout, remembered
from agent.normalizer import Normalizer
from agent.processor import Batch
from agent.projectors import MLP, Linear, PixelShuffle, Resampler, head_count
from agent.spec import AUDIO, IMAGES, SENSE, STATE, TASK, TIME
from agent.tokenizer import encode, train_tokenizer
from tests.tiny import SENTENCES, tiny_model, tiny_sample


def one_decision(sample: dict, k: int) -> dict:
    """The k-th decision of a sample alone, as the robot would have met it."""
    whole = (TASK, AUDIO, "skill", "mentions")
    out = {key: value[k : k + 1] for key, value in sample.items() if key not in whole}
    out[TASK], out[AUDIO] = sample[TASK], sample[AUDIO][: int(round(sample[TIME][k] * 16000))]
    return out


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_packed_decisions_equal_decisions_alone(mask):
    """K decisions that share a sequence, with queries or without, are what each would be alone."""
    model, processor, config = tiny_model()
    model.backbone.mask = mask
    sample = tiny_sample(np.random.default_rng(0))
    queries = {"queries": np.array([["red cube", "green ball"]] * 3)}
    packed = model.think(processor([sample | queries])).goal.readout[0, :, 0]
    for k in range(3):
        alone = model.think(processor([one_decision(sample, k)])).goal.readout[0, 0, 0]
        torch.testing.assert_close(alone, packed[k], rtol=1e-4, atol=1e-5)


def test_a_decision_reads_nothing_of_the_future_or_of_another_decision():
    model, processor, _ = tiny_model()
    sample = tiny_sample(np.random.default_rng(1))
    first = model.think(processor([sample])).goal.readout[0, 0, 0]
    other = dict(sample)
    for key in (IMAGES + "front", IMAGES + "wrist", STATE):
        other[key] = sample[key].copy()
        other[key][1:] = 0
    other[AUDIO] = sample[AUDIO].copy()
    other[AUDIO][int(sample[TIME][0] * 16000) :] = 0.5
    torch.testing.assert_close(model.think(processor([other])).goal.readout[0, 0, 0], first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", [TASK, AUDIO, STATE, SENSE + "force", IMAGES + "front", IMAGES + "wrist"])
def test_every_modality_reaches_the_action(key):
    model, processor, _ = tiny_model()
    rng = np.random.default_rng(2)
    sample, other = tiny_sample(rng, 1), tiny_sample(rng, 1)
    changed = dict(sample)
    changed[key] = "pick up the green ball" if key == TASK else other[key]
    if key == TASK:
        sample[TASK] = "put the red cube in the blue bowl"
    if key == AUDIO:
        changed[AUDIO] = np.roll(sample[AUDIO], 7, axis=0)[:, ::-1].copy()
    seeded = [model.act(processor([s]), torch.Generator().manual_seed(0)).actions for s in (sample, changed)]
    assert (seeded[0] - seeded[1]).abs().max() > 1e-5


def test_all_cameras_at_once_are_seen_as_each_alone():
    model, processor, _ = tiny_model()
    images = processor([tiny_sample(np.random.default_rng(n), 3) for n in range(2)]).images
    for name, grid in model.see(images).items():
        torch.testing.assert_close(grid, model.vision(images[name].flatten(0, 1)), rtol=1e-4, atol=1e-5)


def test_instruction_that_is_not_known_yet_changes_nothing():
    model, processor, _ = tiny_model()
    sample = tiny_sample(np.random.default_rng(3), 1) | {"known": np.zeros(1, bool)}
    other = dict(sample) | {TASK: SENTENCES[1] if sample[TASK] != SENTENCES[1] else SENTENCES[0]}
    padded = [model.think(processor([s, tiny_sample(np.random.default_rng(4), 1)])).goal.readout[0, :, 0]
              for s in (sample, other)]
    torch.testing.assert_close(*padded, rtol=1e-4, atol=1e-5)


def test_absent_modality_is_masked():
    model, processor, _ = tiny_model()
    rng = np.random.default_rng(5)
    sample, other = tiny_sample(rng, 1), tiny_sample(rng, 1)
    results = []
    for images in (sample, other):
        batch = processor([sample | {IMAGES + "wrist": images[IMAGES + "wrist"]}])
        batch.absent["wrist"] = torch.tensor([True])
        results.append(model.think(batch).goal.readout)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_a_mentioned_thing_is_asked_for_at_its_own_token():
    """What the words point at is learned where a name ends, and what is learned beside the instruction changes no answer."""
    model, processor, _ = tiny_model()
    sample = tiny_sample(np.random.default_rng(6)) | {TASK: SENTENCES[0]}
    ends = [SENTENCES[0].index(name) + len(name) for name in ("red cube", "blue bowl")]
    batch = processor([sample | {"mentions": np.array([*ends, -1])}])
    words = [processor.tokenizer.decode([batch.text[0, i]]).strip() for i in batch.mentions[0, :2]]
    assert words == ["cube", "bowl"] and batch.mentions[0, 2] == -1
    mind = model.think(batch)
    both = mind.goal.joined(mind.words.of(batch.mentions))
    assert both.point.shape == (1, 3, 3 + 3, 3)
    for part, whole in ((both.point, mind.words.point), (both.logits["front"], mind.words.logits["front"])):
        torch.testing.assert_close(part[:, :, 3:5], whole[:, :, batch.mentions[0, :2]])
    batch.mentions = batch.queries = None
    torch.testing.assert_close(model.think(batch).goal.readout[:, :, 0], mind.goal.readout[:, :, 0], rtol=1e-4, atol=1e-5)


def test_the_layout_head_learns_the_places_of_what_is_there():
    torch.manual_seed(0)
    head, act = LayoutHead(8, 4), torch.randn(1, 2, 8, requires_grad=True)
    places, weight = torch.rand(1, 2, 3, 3), torch.tensor([[[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    head(act, places, weight).backward()
    assert (act.grad.abs().sum(-1) > 0).tolist() == [[True, False]]
    with torch.no_grad():
        head.net.weight.zero_()
        head.net.bias[:9] = places[0, 0].flatten() / 0.1
    assert head(act, places, weight) < 1e-5


def test_the_source_head_learns_from_what_is_labelled_and_heard_only():
    torch.manual_seed(0)
    head, sound = SourceHead(8), torch.randn(1, 4, 8, requires_grad=True)
    source = torch.tensor([[[1.0, 0.5, 0.1, 0.0], [0.0] * 4, [-1.0] * 4, [1.0, 0.2, 0.2, 0.0]]])
    head(sound, source, torch.tensor([[True, True, True, False]])).backward()
    assert (sound.grad.abs().sum(-1) > 0).tolist() == [[True, True, False, False]]
    with torch.no_grad():
        head.net.weight.zero_()
        head.net.bias[:] = torch.tensor([50.0, 5.0, 1.0, 0.0])
    assert head(sound[:, :1], source[:, :1], torch.tensor([[True]])) < 1e-4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8), st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3),
       st.data())
def test_layout(memory, decisions, body, asks, data):
    """Each pair of tokens, by the rule in words."""
    heard = torch.tensor([[data.draw(st.integers(0, memory + 9)) for _ in range(decisions)]])
    seen = [torch.tensor([[data.draw(st.booleans()) for _ in range(n - 1)] + [True] for _ in range(decisions)])[None]
            for n in asks]
    layout = Layout(memory, body, tuple(asks))
    out = layout.visible(heard, torch.ones(1, decisions, body, dtype=bool), seen)
    tags = ["body"] * body + [(a, i) for a, n in enumerate(asks) for i in range(n)]
    assert out.shape == (decisions, len(tags), memory + len(tags))
    for d in range(decisions):
        count, sound = int(heard[0, d]), remembered(heard, memory)[0, d].tolist()
        assert [n for n in sound if n < count] == list(range(max(0, count - memory), count))
        for q, row in enumerate(tags):
            assert out[d, q, :memory].tolist() == [n < count for n in sound]
            for k, column in enumerate(tags):
                own = row != "body" and row[0] == column[0] and bool(seen[column[0]][0, d, column[1]])
                assert bool(out[d, q, memory + k]) == (q == k or column == "body" or own), (row, column)
    assert [tags[i] for i in layout.act_indices().tolist()] == [(a, n - 1) for a, n in enumerate(asks)]


def prefix_of(groups: int, seed: int = 0) -> Prefix:
    g = torch.Generator().manual_seed(seed)
    keys = [torch.randn(2, 2, 7, 8, generator=g) for _ in range(2)]
    values = [torch.randn(2, 2, 7, 8, generator=g) for _ in range(2)]
    visible = torch.rand(2, groups, 7, generator=g) > 0.3
    return Prefix(keys, values, visible, torch.randn(2, groups, 16, generator=g), [None] * len(keys))


def flow() -> FlowMatching:
    torch.manual_seed(0)
    model = FlowMatching(action_size=3, horizon=4, condition_width=16, layers=2, heads=2, head_dim=8, width=16, feed=24)
    for name, p in model.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(p, std=0.2)
    return model


def test_groups_of_a_prefix_do_not_see_each_other():
    model, prefix = flow(), prefix_of(3)
    x, t = torch.randn(2, 3, 4, 3), torch.rand(2, 3)
    together = model.guess(x, t, prefix)
    for n in range(3):
        one = prefix._replace(visible=prefix.visible[:, n : n + 1], condition=prefix.condition[:, n : n + 1])
        alone = model.guess(x[:, n : n + 1], t[:, n : n + 1], one)
        torch.testing.assert_close(alone[:, 0], together[:, n], rtol=1e-4, atol=1e-5)


def test_cached_sampler_equals_uncached():
    """Reading the prefix once for all steps gives what encoding it anew at every step gives."""
    model, processor, _ = tiny_model()
    batch = processor([tiny_sample(np.random.default_rng(0), 1)])
    cached = model.generator.sample(model.prefix(model.think(batch)), torch.Generator().manual_seed(1))
    x = torch.randn(cached.shape, generator=torch.Generator().manual_seed(1))
    for i in range(model.generator.steps):
        t = torch.full(x.shape[:2], i / model.generator.steps)
        x = x + (model.generator.guess(x, t, model.prefix(model.think(batch))) - x) / (model.generator.steps - i)
    torch.testing.assert_close(cached, x, rtol=1e-4, atol=1e-5)


def test_flow_matching_learns_a_distribution_with_two_modes():
    """Trained on actions that are +1 or -1 by chance it samples both, not their mean."""
    model = flow()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    prefix = prefix_of(8)
    for step in range(300):
        torch.manual_seed(step)
        sign = torch.randint(0, 2, (2, 8, 1, 1)) * 2.0 - 1
        loss = model.loss(prefix, sign.expand(2, 8, 4, 3), torch.ones(2, 8, 4))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    samples = torch.cat([model.sample(prefix, torch.Generator().manual_seed(s)) for s in range(8)]).mean((2, 3))
    assert (samples.abs() - 1).abs().mean() < 0.25
    assert 0.2 < (samples > 0).float().mean() < 0.8


@pytest.mark.parametrize("generator", ["agent.generators.flow.FlowMatching", "agent.generators.action_tokens.Bins"])
def test_each_generator_learns_what_is_done(generator):
    """A small model by heart, chunks and all."""
    model, processor, _ = tiny_model(generator={"_target_": generator, "width": 32, "feed": 48})
    batch = processor([tiny_sample(np.random.default_rng(seed), 2) for seed in range(2)])
    batch.action.clamp_(-0.9, 0.9)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    first = None
    for _ in range(150):
        loss = model(batch)["action"]
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss) and loss.item() < 0.2 * first
    actions = model.eval().act(batch, torch.Generator().manual_seed(0)).actions
    assert actions.shape == batch.action.shape
    assert (actions - batch.action).abs().mean() < 0.15


def test_projectors_count_and_reach():
    grid = torch.randn(3, 4, 4, 8, requires_grad=True)
    for make, count in ((Linear, 16), (MLP, 16), (PixelShuffle, 4), (Resampler, 16)):
        projector = make(width_in=8, width=24, grid=4)
        out = projector(grid)
        assert out.shape == (3, count, 24) and projector.count == count
        (grad,) = torch.autograd.grad(out.square().sum(), grid)
        assert (grad.abs().sum((0, 3)) > 0).all(), f"{make.__name__} does not read every patch"


@given(st.integers(1, 4096), st.integers(1, 128))
def test_heads_share_the_width_evenly_and_are_as_large_as_they_should(width, size):
    heads = head_count(width, size)
    assert width % heads == 0 and (heads == 1 or width / heads >= size)
    assert all(width % more or width / more < size for more in range(heads + 1, width + 1))


@pytest.mark.parametrize("width", [128, 896, 1024])
def test_the_resampler_fits_common_widths(width):
    assert Resampler(width_in=8, width=width, grid=4)(torch.randn(1, 4, 4, 8)).shape == (1, 16, width)


def test_pixel_shuffle_joins_neighbours():
    """A token changes with its own square of patches and with no other."""
    projector = PixelShuffle(width_in=3, width=5, grid=4)
    x = torch.randn(1, 4, 4, 3)
    y = x.clone()
    y[0, 2, 3] += 1
    changed = (projector(x) != projector(y)).any(-1)[0]
    assert changed.tolist() == [False, False, False, True]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_normalizer_is_a_round_trip(size, seed):
    values = np.random.default_rng(seed).normal(size=(200, size)) * 10
    n = Normalizer(size)
    n.fit(values)
    x = torch.from_numpy(values[:50]).float()
    inside = ((x > n.low) & (x < n.high)).all(1)
    torch.testing.assert_close(n.inverse(n(x))[inside], x[inside], rtol=1e-4, atol=1e-3)
    assert n(x).abs().max() <= n.reach


def test_what_seldom_happens_can_be_told_from_what_never_does():
    values = np.zeros((1000, 2))
    values[7, 0] = 1.0
    n = Normalizer(2)
    n.fit(values)
    done = n.inverse(n(torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    torch.testing.assert_close(done, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), atol=1e-5, rtol=0)


def test_a_sense_that_is_not_learned_is_not_asked_for():
    model, *_ = tiny_model(senses={})
    assert model.spec.senses == {} and tiny_model()[0].spec.senses


def test_cells_put_an_object_where_it_is():
    row = torch.tensor([[[2.0, 4, 0, 0, 0, 0.30, 0.80, -1, -1], [-1.0] * 9]])
    front, wrist = cells(row, 8, 5), cells(row, 8, 7)
    index = 6 * 8 + 2
    assert front[0, index, :2].tolist() == [2, 4]
    torch.testing.assert_close(front[0, index, 2:], torch.tensor([2 * 0.4 - 1, 2 * 0.4 - 1]))
    assert (front[0, :, 0] == KINDS - 1).sum() == 63 and (wrist[0, :, 0] == KINDS - 1).all()


def test_tokenizer_never_merges_across_words_and_reads_anything():
    tokenizer = train_tokenizer(SENTENCES)
    for text in (*SENTENCES, "put the blue bowl in the red cube", "Größe 你好"):
        assert tokenizer.decode(encode(tokenizer, text)).strip() == text.lower()
    ids = encode(tokenizer, SENTENCES[0])
    assert [tokenizer.decode([i]).strip() for i in ids] == SENTENCES[0].split()
    assert encode(tokenizer, "  ") == []


def test_losses_are_named_and_finite():
    model, processor, _ = tiny_model()
    rng = np.random.default_rng(0)
    batch = processor([tiny_sample(rng) | {"utterance": rng.normal(size=16000)} for _ in range(2)])
    losses = model.loss(batch)
    assert set(losses) == {"action", "goal", "pixel", "layout", "source", "objects", "skill", "speech"}
    assert all(torch.isfinite(v) for v in losses.values())
    assert isinstance(batch, Batch)
