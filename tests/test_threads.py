"""The number of threads: measured by the work itself, said, kept by a run that is continued."""

import json

import pytest
import torch

from tests.support.tiny_run import main, tiny_flags, write_images
from timm_asap import machine
from timm_asap.machine import ThreadChoice, choose_threads, thread_count, training_step


@pytest.fixture(autouse=True)
def as_before():
    with thread_count():
        yield


class Machine:
    """Work that takes the seconds of a table, by the number of threads."""

    def __init__(self, monkeypatch, seconds_per_image):
        self.now, self.table, self.images = 0.0, seconds_per_image, []
        monkeypatch.setattr(machine.time, "perf_counter", lambda: self.now)

    def __call__(self, images):
        self.images.append(images)
        self.now += images * self.table[torch.get_num_threads()]


@pytest.mark.parametrize(
    ("table", "best", "tried"),
    [
        ({1: 0.1, 2: 0.5}, 1, {1, 2}),  # a busy machine
        ({1: 0.1, 2: 0.055}, 2, {1, 2}),  # an idle one
        ({1: 0.1, 2: 0.095}, 1, {1, 2}),  # what two threads bring is not worth it
        ({1: 0.1, 2: 0.055, 4: 0.03, 6: 0.02}, 6, {1, 2, 4, 6}),
        ({1: 0.1, 2: 0.055, 4: 0.06, 6: 0.01}, 2, {1, 2, 4}),
        ({1: 0.1}, 1, {1}),
    ],
)
def test_more_threads_as_long_as_they_are_faster(table, best, tried, monkeypatch):
    work = Machine(monkeypatch, table)
    choice = choose_threads(work, most=64, count=max(table))
    assert (choice.threads, set(choice.seconds)) == (best, tried)
    assert torch.get_num_threads() == best


def test_a_trial_is_long_enough_to_tell_and_no_longer(monkeypatch):
    quick = Machine(monkeypatch, {1: 0.001, 2: 0.001})
    choose_threads(quick, most=64, count=2)
    assert max(quick.images) == 64
    slow = Machine(monkeypatch, {1: 5.0, 2: 3.0})
    choose_threads(slow, most=64, count=2)
    assert max(slow.images) == 2


def test_the_choice_is_a_line():
    choice = ThreadChoice(1, 2, {1: 0.1, 2: 0.52})
    assert str(choice) == "1 CPU thread of 2: measured 5.2 times as fast as 2 (OMP_NUM_THREADS sets another number)"
    assert str(ThreadChoice(1, 1, {1: 0.1})) == "1 CPU thread of 1 (OMP_NUM_THREADS sets another number)"


def test_the_trial_changes_neither_the_network_nor_the_random_numbers():
    conv, head = torch.nn.Conv2d(1, 2, 3), torch.nn.Linear(72, 3)
    model = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(2), torch.nn.Dropout(), torch.nn.Flatten(), head)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    training_step(model, (1, 8, 8))(4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_says_its_threads_and_keeps_them_when_it_is_continued(tmp_path, monkeypatch, capsys):
    data_dir = write_images(tmp_path / "idx")
    calls = []

    def choose(work, most):
        calls.append(most)
        torch.set_num_threads(2)
        return ThreadChoice(2, 2, {1: 2.0, 2: 1.0})

    monkeypatch.setattr(machine, "set_by_user", lambda: False)
    monkeypatch.setattr(machine, "choose_threads", choose)
    torch.set_num_threads(1)
    assert main(tiny_flags(data_dir, tmp_path / "run", epochs=1)) == 0
    assert "2 CPU threads of 2: measured 2.0 times as fast as 1" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["threads"] == 2
    assert "2 threads" in facts["hardware"]
    assert torch.get_num_threads() == 1  # the caller's own
    assert main(["--output", str(tmp_path / "run"), "--resume", "--epochs", "2"]) == 0
    assert len(calls) == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["threads"] == 2


def test_the_environment_has_the_last_word(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(machine, "choose_threads", lambda *args: pytest.fail("it was measured"))
    assert main(tiny_flags(write_images(tmp_path / "idx"), tmp_path / "run", epochs=1)) == 0
