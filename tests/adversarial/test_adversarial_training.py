"""Losses of adversarial training, on models whose answer is known."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from timm_asap.adversarial import PixelModel, check_adversarial, fgsm
from timm_asap.adversarial.attacks import frozen, in_mode
from timm_asap.adversarial.config import METHODS, AdversarialConfig
from timm_asap.adversarial.losses import AdversarialState, adversarial_loss, survives_pgd
from timm_asap.errors import UserError

EPS = 0.1


class Recorder(PixelModel):
    """Keeps what it was asked about, and in which mode."""

    def __init__(self, model):
        super().__init__(model, [0.0], [1.0])
        self.asked = []

    def _logits(self, images):
        self.asked.append((images.detach().clone(), self.model.training))
        return super()._logits(images)


def linear_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def norm_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def batch(count=6):
    torch.manual_seed(1)
    return 0.2 + 0.6 * torch.rand(count, 3, 2, 2), torch.arange(count) % 3


def step(model, config, state=None, images=None, labels=None):
    if images is None:
        images, labels = batch()
    state = AdversarialState() if state is None else state
    return adversarial_loss(model, nn.CrossEntropyLoss(), images, labels, config, state), state


class TestConfig:
    @pytest.mark.parametrize(
        ("method", "resolved"),
        [
            ("fgsm", (1, 10 / 255, 0.0, 1, "train")),
            ("pgd", (10, 2 / 255, 0.0, 1, "train")),
            ("trades", (10, 2 / 255, 6.0, 1, "eval")),
            ("free", (1, 8 / 255, 0.0, 8, "train")),
        ],
    )
    def test_takes_the_fields_defaults(self, method, resolved):
        config = AdversarialConfig(method)
        found = (config.steps, config.step_size, config.beta, config.replays, config.model_mode)
        assert config.eps == 8 / 255
        assert found == pytest.approx(resolved)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "mart"}, "unknown adversarial training 'mart'"),
            ({"eps": 0.0}, "above 0"),
            ({"eps": 8}, "8/255"),
            ({"method": "fgsm", "steps": 7}, "fgsm has no steps to set, got 7"),
            ({"method": "pgd", "beta": 6.0}, "pgd has no beta"),
            ({"method": "trades", "replays": 4}, "trades has no replays"),
            ({"steps": 0}, "steps: expected 1 or more"),
            ({"method": "free", "replays": 0}, "replays: expected 1 or more"),
            ({"step_size": 0.0}, "step size: expected a number above 0"),
            ({"method": "trades", "beta": math.nan}, "beta"),
            ({"model_mode": "test"}, "unknown mode"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(UserError, match=message):
            AdversarialConfig(**options)


class TestLosses:
    def test_pgd_trains_on_the_worst_images_of_a_linear_classifier(self):
        """Two classes make its loss grow along one direction: ten steps of eps / 4 reach the corner from any start."""
        model = PixelModel(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), [0.0], [1.0])
        images, labels = batch()[0], torch.tensor([0, 1, 0, 1, 1, 0])
        found, _ = step(model, AdversarialConfig("pgd", EPS), images=images, labels=labels)
        expected = F.cross_entropy(model(fgsm(model, images, labels, EPS)), labels)
        torch.testing.assert_close(found.loss, expected)
        assert found.clean_logits is None
        assert not found.adversarial_logits.requires_grad

    @pytest.mark.parametrize("method", METHODS)
    def test_images_stay_in_the_ball(self, method):
        model = Recorder(linear_net())
        images, labels = torch.rand(6, 3, 2, 2).round(), batch()[1]
        state = AdversarialState()
        for _ in range(3):
            found, state = step(model, AdversarialConfig(method, EPS), state, images, labels)
            found.loss.backward()
            state.after_backward(AdversarialConfig(method, EPS))
        for seen, _ in model.asked:
            check_adversarial(images, seen, EPS, "linf")
        # black and white pixels are attacked as well
        assert ((model.asked[-1][0] - images).abs() > 0.9 * EPS).float().mean() > 0.3
        if method == "free":
            assert state.change.abs().max() <= EPS + 1e-6

    def test_fgsm_is_sought_from_a_random_start(self):
        model = Recorder(linear_net())
        torch.manual_seed(0)
        step(model, AdversarialConfig("fgsm", EPS))
        (start, _), (trained_on, _) = model.asked
        change = (start - batch()[0]).abs()
        assert change.max() > 0.09
        assert change.mean() == pytest.approx(EPS / 2, abs=0.02)
        moved = trained_on - start
        # 1.25 eps long, cut where it leaves the ball
        assert (moved.abs() <= 0.125 + 1e-6).all()
        assert (moved.abs() > EPS).any()

    def test_trades_by_hand(self):
        model = Recorder(linear_net())
        images, labels = batch()
        torch.manual_seed(0)
        found, _ = step(model, AdversarialConfig("trades", EPS, beta=3.0))
        clean, adversarial = (model._logits(seen) for seen, _ in model.asked[-2:])
        torch.testing.assert_close(model.asked[-2][0], images)
        p, q = clean.softmax(1), adversarial.softmax(1)
        divergence = (p * (p / q).log()).sum(1).mean()
        torch.testing.assert_close(found.loss, F.cross_entropy(clean, labels) + 3 * divergence)
        torch.testing.assert_close(found.clean_logits, clean.detach())
        assert divergence > 0.001  # ten steps from a start where there is next to none
        assert len(model.asked) == 1 + 10 + 2 + 2

    def test_free_carries_its_change_from_replay_to_replay_and_batch_to_batch(self):
        config = AdversarialConfig("free", EPS, replays=3)
        model = Recorder(linear_net())
        images, labels = batch()
        first, state = step(model, config)
        torch.testing.assert_close(first.loss, F.cross_entropy(model(images), labels))
        first.loss.backward()
        state.after_backward(config)
        expected = fgsm(model, images, labels, EPS)
        model.asked.clear()
        step(model, config, state)
        torch.testing.assert_close(model.asked[0][0], expected)

        # a smaller batch takes the first changes and leaves the rest as they were
        change = state.change.clone()
        fewer, state = step(model, config, state, images[:2], labels[:2])
        fewer.loss.backward()
        state.after_backward(config)
        assert state.change.shape == images.shape
        assert torch.equal(state.change[2:], change[2:])
        # a larger one starts the new images at zero
        step(model, config, state, torch.cat([images, images]), torch.cat([labels, labels]))
        assert torch.equal(model.asked[-1][0][6:], images)

    def test_free_resumes_where_it_was(self):
        config = AdversarialConfig("free", EPS)
        model = PixelModel(linear_net(), [0.0], [1.0])
        found, state = step(model, config)
        found.loss.backward()
        state.after_backward(config)
        resumed = AdversarialState()
        resumed.load_state_dict(state.state_dict())
        assert torch.equal(step(model, config, resumed)[0].loss, step(model, config, state)[0].loss)
        assert AdversarialState().state_dict() == {}

    def test_free_survives_a_gradient_that_overflowed(self):
        config = AdversarialConfig("free", EPS)
        found, state = step(PixelModel(linear_net(), [0.0], [1.0]), config)
        (found.loss * torch.inf).backward()
        state.after_backward(config)
        assert state.change.isfinite().all()

    @pytest.mark.parametrize(("method", "passes"), [("fgsm", 1), ("pgd", 10), ("trades", 11)])
    def test_the_models_mode_while_images_are_sought(self, method, passes):
        for mode in ("eval", "train"):
            model = Recorder(norm_net()).train()
            counted = model.model[1].num_batches_tracked
            step(model, AdversarialConfig(method, EPS, model_mode=mode))
            losses = 2 if method == "trades" else 1
            assert [training for _, training in model.asked] == [mode == "train"] * passes + [True] * losses
            assert int(counted) == losses + passes * (mode == "train")
            assert model.training

    @pytest.mark.parametrize("method", METHODS)
    def test_gradients_come_from_the_loss_alone(self, method):
        model = PixelModel(norm_net(), [0.5], [0.25]).train()
        found, _ = step(model, AdversarialConfig(method, EPS))
        assert all(parameter.grad is None for parameter in model.parameters())
        found.loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("method", METHODS)
def test_distributed_data_parallel_gives_the_same_gradients(method, process_group):
    gradients = []
    for wrap in (lambda model: model, DistributedDataParallel):
        model = wrap(PixelModel(norm_net(), [0.5], [0.25]).train())
        config, state, calls = AdversarialConfig(method, EPS), AdversarialState(), []
        model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        for _ in range(2):  # the second pass finds out whether the first was finished
            found, state = step(model, config, state)
            model.zero_grad()
            found.loss.backward()
            state.after_backward(config)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert len(calls) == 2  # the wrapper: once for each backward pass, whatever the attack does
    torch.testing.assert_close(*gradients)


def test_survives_pgd_watches_in_evaluation_mode_and_repeats():
    model = PixelModel(norm_net(), [0.5], [0.25]).train()
    images, _ = batch(60)
    with in_mode(model, "eval"):
        labels = model(images).argmax(dim=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    config = AdversarialConfig("fgsm", 0.02)
    right = survives_pgd(model, images, labels, config)
    assert 0 < right.sum() < len(images)
    assert torch.equal(survives_pgd(model, images, labels, config), right)
    assert survives_pgd(model, images, labels, AdversarialConfig("fgsm", 0.5)).sum() < right.sum()
    assert model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_modes_and_flags_come_back_as_they_were():
    net = norm_net().train()
    net[1].eval()  # a BatchNorm layer that its owner has frozen
    net[4].weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in net.parameters()]
    seen = []

    def interrupted(net):
        with frozen(net):
            seen.extend(
                [module.training for module in net] + [parameter.requires_grad for parameter in net.parameters()]
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(net)
    assert not any(seen)
    assert [module.training for module in net] == [True, False, True, True, True]
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
