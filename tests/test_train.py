"""The loop: resuming is bit-equal, what is to be trained is named, targets hold nothing unforeseen."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from agent import checkpoint
from tests.little_workers import Threads, killed_together, mistaken_together, train_together
from tests.tiny import tiny_model, tiny_sample
from training.data.windows import foreseen
from training.optimizers import KINDS
from training.train import Average, Log, Schedule, Trainer, TrainError, freeze
from training.workers import WorkerError, for_loaders, together


class Stream:
    """Batches that depend on their number alone."""

    def __init__(self, processor):
        self.processor = processor

    def __getitem__(self, n: int):
        rng = np.random.default_rng(n)
        return self.processor([tiny_sample(rng, 2, 1.0) for _ in range(2)])


def trainer(out, steps, **changes):
    model, processor, config = tiny_model(seed=3)
    schedule = Schedule(**{"steps": steps, "warmup": 2, "save_every": 3, "log_every": 2, "workers": 0,
                           "precision": "fp32", "seed": 5} | changes)
    return Trainer(model, config, processor.tokenizer, Stream(processor), schedule, out)


def weights(out):
    return load_file(out / "weights" / "model.safetensors")


@pytest.mark.parametrize("optimizer", KINDS)
def test_a_run_that_was_interrupted_ends_with_the_same_bits(tmp_path, optimizer):
    torch.set_num_threads(1)
    whole = trainer(tmp_path / "whole", 6, optimizer=optimizer)
    whole.run()
    first = trainer(tmp_path / "parts", 6, optimizer=optimizer)
    first.data = Interrupt(first.data, at=4)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = trainer(tmp_path / "parts", 6, optimizer=optimizer)
    second.run()
    assert second.step == 6
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("model", "average", "optimizer"):
        a, b = (load_file(tmp_path / run / "resume" / "6" / f"{name}.safetensors") for run in ("whole", "parts"))
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_a_run_that_was_killed_while_it_saved_goes_on_from_the_checkpoint_before(tmp_path, monkeypatch):
    whole = trainer(tmp_path / "whole", 6)
    whole.run()
    first = trainer(tmp_path / "parts", 6)
    first.run(until=3)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.checkpoint.save", killed)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    monkeypatch.undo()
    trainer(tmp_path / "parts", 6).run()
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [path.name for path in sorted((tmp_path / "parts" / "resume").iterdir())] == ["6", "step.json"]


@pytest.mark.parametrize("moved", [False, True])
def test_weights_are_those_of_the_checkpoint_whenever_a_run_is_killed(tmp_path, monkeypatch, moved):
    """Practice is played by them, and does not begin twice by different ones."""
    run = trainer(tmp_path, 6)
    run.run(until=3)
    before, show = weights(tmp_path), Trainer.show

    def killed(self, folder):
        if moved:
            show(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "show", killed)
    with pytest.raises(KeyboardInterrupt):
        run.save() if run.update(run.data[3]) else None
    monkeypatch.undo()
    trainer(tmp_path, 6).run(until=4)
    after = weights(tmp_path)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert checkpoint.page(tmp_path / "weights")["notes"]["steps"] == 4
    assert not (tmp_path / "resume" / "4" / "weights").exists()


def test_a_folder_of_a_run_with_other_settings_is_refused(tmp_path):
    trainer(tmp_path, 3).run()
    with pytest.raises(TrainError, match="optimizer was 'adamw', is now 'muon'; seed was 5, is now 6"):
        trainer(tmp_path, 3, optimizer="muon", seed=6).run()
    other = trainer(tmp_path, 3)
    other.model.register_parameter("more", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(TrainError, match="parameter more"):
        other.run()


def test_a_gradient_that_is_not_finite_ends_the_run_and_keeps_its_checkpoint(tmp_path):
    run = trainer(tmp_path, 6)
    run.run(until=3)
    before = weights(tmp_path)
    run.schedule.weights = {"action": float("nan")}
    with pytest.raises(TrainError, match="step 4: the gradient is not finite"):
        run.run()
    after = weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_processes_that_train_together_stay_alike_and_write_once(tmp_path):
    together(train_together, (str(tmp_path),), 2)
    one, other = (load_file(tmp_path / f"{rank}.st") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    alone = trainer(tmp_path / "alone", 3)
    alone.run()
    assert not torch.equal(one["skill_head.net.weight"], alone.model.skill_head.net.weight)  # both saw other batches
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2] and (tmp_path / "weights" / "model.safetensors").is_file()


def test_processes_that_train_together_go_on_from_what_is_on_disk(tmp_path):
    for name, stops in (("whole", ()), ("parts", (2,))):
        together(train_together, (str(tmp_path / name), *stops), 2)
    whole, parts = (load_file(tmp_path / name / "1.st") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_what_a_user_got_wrong_is_said_by_processes_that_work_together_too():
    with pytest.raises(WorkerError, match="^colour=7: a name is needed$"):
        together(mistaken_together, ("colour=7: a name is needed",), 1)
    message = "an episode crashed:\nTraceback (most recent call last):\n  File x\nValueError: y"
    with pytest.raises(WorkerError) as told:
        together(mistaken_together, (message,), 2)
    assert str(told.value) == message
    with pytest.raises(Exception, match="Traceback(?s:.*)ZeroDivisionError") as fault:
        together(mistaken_together, ("",), 1)
    assert not isinstance(fault.value, WorkerError)


def test_a_process_that_is_killed_says_what_to_do():
    with pytest.raises(WorkerError, match="terminated with signal SIGKILL; out of memory. Run again to go on"):
        together(killed_together, (), 2)


class Interrupt:
    def __init__(self, data, at):
        self.data, self.at = data, at

    def __getitem__(self, n):
        if n == self.at:
            raise KeyboardInterrupt
        return self.data[n]


def test_training_lowers_the_loss_and_logs_it(tmp_path):
    run = trainer(tmp_path, 60, rate=3e-3, save_every=60, log_every=10)
    run.data = Same(run.data)
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert lines[-1]["objects"] < 0.8 * lines[0]["objects"] and lines[-1]["pixel"] < lines[0]["pixel"]
    assert lines[-1]["samples_per_s"] > 0


def test_steps_that_are_done_again_are_logged_once_and_each_loss_by_its_own_batches(tmp_path):
    first = Log(tmp_path, 0)
    for step in (1, 2, 3):
        first.add({"action": 1.0} | ({"source": 4.0} if step == 2 else {}), 8)
        first.write(step, 0.1)
    again = Log(tmp_path, 1)
    again.add({"action": 2.0, "source": 3.0}, 8)
    again.add({"action": 4.0}, 8)
    again.write(2, 0.1)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["action"], line.get("source")) for line in lines] == [(1, 1.0, None), (2, 3.0, 3.0)]


class Same:
    def __init__(self, data):
        self.data = data

    def __getitem__(self, n):
        return self.data[0]


def test_only_what_is_named_is_trained(tmp_path):
    run = trainer(tmp_path, 2, train=("generator.", "pointer."))
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    changed = {name.split(".")[0] for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"generator", "pointer"}


def test_a_name_that_matches_nothing_is_an_error():
    model, _, _ = tiny_model()
    with pytest.raises(TrainError, match="'backbne.'.*backbone"):
        freeze(model, Schedule(train=("backbne.",)))


def test_unknown_precision_and_optimiser_are_named(tmp_path):
    with pytest.raises(TrainError, match="fp8.*auto, bf16, fp32"):
        Schedule(precision="fp8")
    with pytest.raises(TrainError, match="'lion'.*adamw, muon"):
        trainer(tmp_path, 1, optimizer="lion")


def test_schedule_warms_up_and_falls():
    schedule = Schedule(steps=100, warmup=10, rate=1.0, floor=0.1)
    rates = [schedule.at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0) and rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))


def test_average_swaps_back():
    model, _, _ = tiny_model()
    average = Average(model, 0.9)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    average.swap(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    average.swap(model)
    assert all(torch.allclose(p, before[name] + 1) for name, p in model.named_parameters())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 8), st.data())
def test_targets_end_before_the_next_surprise(surprise, horizon, data):
    start = data.draw(st.integers(0, len(surprise) - 1))
    count = foreseen(np.array(surprise), start, horizon)
    assert 1 <= count <= horizon and start + count <= len(surprise)
    assert not any(surprise[start + 1 : start + count])
    ended = start + count == len(surprise) or count == horizon
    assert ended or surprise[start + count]


def test_what_a_loader_gives_comes_in_order_from_processes_of_one_thread():
    order = [3, 1, 2, 0]
    loader = DataLoader(Threads(), batch_size=None, sampler=order, num_workers=2, multiprocessing_context=for_loaders())
    assert [tuple(map(int, item)) for item in loader] == [(n, 1) for n in order]
