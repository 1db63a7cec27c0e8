"""Attacks of the evaluation, on linear classifiers whose robust accuracy has a closed form."""

import logging
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn

import timm_asap
from timm_asap.adversarial import (
    ATTACKS,
    AttackSpec,
    PixelModel,
    check_adversarial,
    masking_attacks,
    masking_warnings,
    run_attack,
)
from timm_asap.errors import UserError

EPS = 0.04
BY_PYAUTOATTACK = ("apgd-ce", "square", "autoattack")


class LinearProblem:
    """A linear classifier of 3 x 6 x 6 images that no ball of radius EPS takes out of [0, 1]."""

    def __init__(self, classes, images=10):
        generator = torch.Generator().manual_seed(classes)
        self.weight = torch.randn(classes, 108, generator=generator)
        net = nn.Sequential(nn.Flatten(), nn.Linear(108, classes, bias=False))
        net[1].weight.data.copy_(self.weight)
        self.model = PixelModel(net, [0.5], [0.25])
        self.images = 0.1 + 0.8 * torch.rand(images, 3, 6, 6, generator=generator)
        self.labels = self.model(self.images).argmax(dim=1)

    def robust(self, eps, norm="linf"):
        """Right as long as no other class can overtake: margin > eps times the dual norm of the weights' difference."""
        inside = ((self.images - 0.5) / 0.25).flatten(1)
        logits = inside @ self.weight.T
        margins = logits.gather(1, self.labels[:, None]) - logits
        between = (self.weight[self.labels][:, None] - self.weight) / 0.25
        reach = between.abs().sum(2) if norm == "linf" else between.norm(dim=2)
        return ((margins > eps * reach) | (reach == 0)).all(dim=1)


def quick(name, eps=EPS, norm="linf", **options):
    """An attack with few queries: Square asks the model thousands of times."""
    return AttackSpec(name, eps, norm, **({"steps": 200} if name == "square" else {}), **options)


@pytest.fixture
def few_queries(monkeypatch):
    """AutoAttack's Square asks 50 times: its 5000 go on for every image that is robust."""
    monkeypatch.setattr(SquareAttack, "n_queries", property(lambda self: 50, lambda self, _: None), raising=False)


class TestSpec:
    def test_id_and_record_say_what_runs(self):
        spec = AttackSpec("pgd", 8 / 255, restarts=3, seed=5)
        assert spec.id == "attack/pgd-linf/0.0313725"
        assert spec.record() == {
            "measure": "attack",
            "id": "attack/pgd-linf/0.0313725",
            "attack": "pgd",
            "version": f"timm_asap {timm_asap.__version__}",
            "norm": "linf",
            "eps": 8 / 255,
            "steps": 20,
            "step_size": 2.5 * 8 / 255 / 20,
            "restarts": 3,
            "seed": 5,
        }

    def test_record_names_pyautoattack_and_its_effort(self):
        record = AttackSpec("square", 0.5, "l2").record()
        assert record["version"].startswith("pyautoattack 0.")
        assert (record["steps"], record["step_size"], record["restarts"]) == (5000, None, 1)
        assert AttackSpec("autoattack", 0.1).record()["steps"] is None
        assert AttackSpec("fgsm", 0.1).record()["step_size"] == 0.1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "pdg"}, "unknown attack 'pdg'"),
            ({"eps": -1 / 255}, "from 0 up"),
            ({"eps": 4}, "4 of 255 gray levels is 4/255"),
            ({"norm": "l1"}, "unknown norm"),
            ({"steps": 0}, "steps of pgd: expected 1 or more"),
            ({"restarts": 0}, "restarts of pgd: expected 1 or more"),
            ({"step_size": -1.0}, "step size of pgd"),
            ({"name": "fgsm", "steps": 3}, "fgsm has no steps to set"),
            ({"name": "autoattack", "steps": 100}, "autoattack has no steps to set"),
            ({"name": "autoattack", "restarts": 5}, "autoattack has no restarts to set"),
            ({"name": "apgd-ce", "step_size": 0.1}, "apgd-ce has no step_size to set"),
            ({"seed": -1}, "seed"),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(UserError, match=message):
            AttackSpec(**{"name": "pgd", "eps": EPS, **options})

    @pytest.mark.parametrize("name", BY_PYAUTOATTACK)
    def test_missing_package_is_named_before_any_work(self, name, monkeypatch):
        def missing(package):
            raise PackageNotFoundError(package)

        monkeypatch.setattr("timm_asap.adversarial.config.version", missing)
        with pytest.raises(UserError, match=r"pip install 'timm_asap\[attacks\]'"):
            AttackSpec(name, EPS)
        AttackSpec("pgd", EPS)


class TestRunAttack:
    @pytest.mark.parametrize("norm", ["linf", "l2"])
    @pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd-ce"])
    def test_finds_exactly_the_images_that_can_be_fooled(self, name, norm):
        """Two classes: the gradient of the cross-entropy points the shortest way, whatever the attack."""
        problem = LinearProblem(classes=2, images=20)
        eps = {"linf": EPS, "l2": 0.3}[norm]
        outcome = run_attack(problem.model, problem.images, problem.labels, quick(name, eps, norm))
        expected = problem.robust(eps, norm)
        assert 0 < expected.sum() < 20
        assert torch.equal(outcome.robust, expected)
        check_adversarial(problem.images, outcome.adversarial, eps, norm)
        fooled = problem.model(outcome.adversarial).argmax(dim=1) != problem.labels
        assert torch.equal(fooled, ~expected)

    @pytest.mark.parametrize("classes", [3, 4, 10])
    def test_autoattack_is_exact_for_any_number_of_classes(self, classes, few_queries):
        """The nearest other class is not always the runner-up: the targeted attacks find it."""
        problem = LinearProblem(classes, images=6)
        eps = {3: 0.04, 4: 0.03, 10: 0.02}[classes]
        outcome = run_attack(problem.model, problem.images, problem.labels, AttackSpec("autoattack", eps))
        expected = problem.robust(eps)
        assert 0 < expected.sum() < 6
        assert torch.equal(outcome.robust, expected)
        assert outcome.warnings == (
            ("AutoAttack's apgd-t needs 4 classes, there are 3: apgd-dlr takes its place",) if classes == 3 else ()
        )

    def test_autoattack_of_two_classes_says_what_it_leaves_out(self):
        problem = LinearProblem(2, images=3)
        outcome = run_attack(problem.model, problem.images, problem.labels, AttackSpec("autoattack", 0.5))
        assert not outcome.robust.any()
        assert outcome.warnings == ("AutoAttack's apgd-t needs 4 classes, there are 2: it is left out",)

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_square_fools_only_what_can_be_fooled(self, norm):
        problem = LinearProblem(4, images=20)
        eps = {"linf": 0.1, "l2": 1.0}[norm]
        outcome = run_attack(problem.model, problem.images, problem.labels, quick("square", eps, norm))
        assert outcome.robust.sum() < 20
        assert not (problem.robust(eps, norm) & ~outcome.robust).any()

    @pytest.mark.parametrize("name", ATTACKS)
    def test_images_that_are_wrong_stay_as_they_are(self, name):
        problem = LinearProblem(4, images=4)
        labels = problem.labels.clone()
        labels[1] = (labels[1] + 1) % 4
        outcome = run_attack(problem.model, problem.images, labels, quick(name, 0.3))
        assert not outcome.robust.any()
        assert torch.equal(outcome.adversarial[1], problem.images[1])
        assert not torch.equal(outcome.adversarial[0], problem.images[0])

    def test_all_wrong_and_no_images_at_all(self):
        problem = LinearProblem(4, images=4)
        wrong = (problem.labels + 1) % 4
        assert not run_attack(problem.model, problem.images, wrong, quick("autoattack")).robust.any()
        outcome = run_attack(problem.model, problem.images[:0], wrong[:0], quick("pgd"))
        assert outcome.robust.shape == (0,)

    @pytest.mark.parametrize("name", ATTACKS)
    def test_leaves_the_process_as_it_was(self, name, capfd, few_queries):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
        model, images = PixelModel(net, [0.5], [0.25]), torch.rand(6, 3, 6, 6)
        labels = model.eval()(images).argmax(dim=1)
        model.train()
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        trace, random_state = sys.gettrace(), torch.get_rng_state()
        logger = logging.getLogger("auto-attack")
        logged = logger.level, logger.propagate, list(logger.handlers)

        def tracing(frame, event, arg):
            return None

        sys.settrace(tracing)
        try:
            outcome = run_attack(model, images, labels, quick(name, 0.001))
            assert sys.gettrace() is tracing
        finally:
            sys.settrace(trace)
        assert outcome.robust.any()  # so that each of AutoAttack's four had something to do
        assert torch.equal(torch.get_rng_state(), random_state)
        assert (logger.level, logger.propagate, logger.handlers) == logged
        assert model.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("name", ["pgd", "apgd-ce", "square"])
    def test_same_seed_and_indices_give_the_same_images(self, name):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(108, 32), nn.Tanh(), nn.Linear(32, 4))
        model, images, indices = PixelModel(net, [0.5], [0.25]), torch.rand(10, 3, 6, 6), torch.arange(50, 60)
        labels = model(images).argmax(dim=1)

        def attacked(seed=0, indices=indices):
            return run_attack(model, images, labels, quick(name, 0.2, seed=seed), indices).adversarial

        first = attacked()
        torch.manual_seed(123)
        assert torch.equal(attacked(), first)
        assert not torch.equal(attacked(seed=1), first)
        assert not torch.equal(attacked(indices=indices + 10), first)

    def test_pgd_does_not_depend_on_the_batch(self):
        problem = LinearProblem(4, images=20)
        spec, indices = AttackSpec("pgd", EPS, restarts=2), torch.arange(20)
        assert spec.batch_size is None
        assert AttackSpec("square", EPS).batch_size == 50
        together = run_attack(problem.model, problem.images, problem.labels, spec, indices)
        for rows in indices.split(7):
            apart = run_attack(problem.model, problem.images[rows], problem.labels[rows], spec, indices[rows])
            torch.testing.assert_close(apart.adversarial, together.adversarial[rows], rtol=0, atol=1e-6)
            assert torch.equal(apart.robust, together.robust[rows])

    @pytest.mark.parametrize("images", [torch.full((1, 3, 6, 6), 1.5), torch.full((1, 3, 6, 6), -0.1)])
    def test_refuses_images_that_are_not_pixels(self, images):
        with pytest.raises(UserError, match=r"pixels in \[0, 1\], got"):
            run_attack(LinearProblem(4).model, images, torch.zeros(1, dtype=torch.long), quick("pgd"))

    def test_refuses_bytes_and_images_too_small_for_square(self):
        model, labels = LinearProblem(4).model, torch.zeros(1, dtype=torch.long)
        with pytest.raises(UserError, match="float images"):
            run_attack(model, torch.zeros(1, 3, 6, 6, dtype=torch.uint8), labels, quick("pgd"))
        tiny = PixelModel(nn.Flatten(), [0.5], [0.5])
        with pytest.raises(UserError, match="square in l2 needs images of 5 pixels"):
            run_attack(tiny, torch.eye(4).view(1, 1, 4, 4), labels, quick("square", norm="l2"))

    def test_reports_what_the_checks_of_pyautoattack_find(self, caplog):
        problem = LinearProblem(4, images=3)
        probabilities = nn.Sequential(problem.model, nn.Softmax(dim=1))
        outcome = run_attack(probabilities, problem.images, problem.labels, quick("autoattack", 0.3))
        assert "the model returns probabilities where attacks need logits" in outcome.warnings
        assert not caplog.records


class Rounded(nn.Module):
    """A linear classifier of coarsely rounded pixels: it can be fooled, but has no gradient."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(108, 2, bias=False))
        self.net[1].weight.data = torch.stack([torch.ones(108), -torch.ones(108)])

    def forward(self, images):
        return self.net(2 * (images * 10).round() / 10 - 1)


class TestMasking:
    def test_a_model_without_gradients_is_caught(self):
        torch.manual_seed(0)
        model = PixelModel(Rounded(), [0.0], [1.0])
        images = 0.1 * torch.rand(12, 3, 6, 6) + torch.where(torch.arange(12) % 2 == 0, 0.37, 0.53).view(-1, 1, 1, 1)
        labels = model(images).argmax(dim=1)
        results = []
        for spec in masking_attacks(0.2, queries=200):
            outcome = run_attack(model, images, labels, spec)
            results.append({**spec.record(), "images": 12, "accuracy": 100 * outcome.robust.double().mean().item()})
        warnings = masking_warnings(results)
        assert len(warnings) == 2
        assert "Square, which uses none, leaves 0.0 % right at eps 0.2 in linf, pgd 100.0 %" in warnings[0]
        assert "pgd without a bound on eps leaves" in warnings[1]

    def test_a_linear_model_is_not_suspected(self):
        problem = LinearProblem(3, images=12)
        results = []
        for spec in masking_attacks(EPS, queries=200):
            outcome = run_attack(problem.model, problem.images, problem.labels, spec)
            results.append({**spec.record(), "images": 12, "accuracy": 100 * outcome.robust.double().mean().item()})
        assert [result["id"] for result in results] == [
            "attack/fgsm-linf/0.04",
            "attack/pgd-linf/0.04",
            "attack/square-linf/0.04",
            "attack/pgd-linf/1",
        ]
        assert masking_warnings(results) == []

    @pytest.mark.parametrize(
        ("weaker", "accuracy", "images", "warned"),
        [
            ("fgsm", 49.0, 1000, True),
            ("square", 49.0, 1000, True),
            ("square", 49.85, 10_000, False),  # within 0.2 points
            ("square", 49.0, 100, False),  # one image of 100
            ("square", 48.0, 100, True),
            ("fgsm", 51.0, 1000, False),
        ],
    )
    def test_weaker_attacks_that_do_better(self, weaker, accuracy, images, warned):
        results = [result("pgd", 50.0, images), result(weaker, accuracy, images), {"measure": "clean"}]
        assert len(masking_warnings(results)) == warned

    def test_only_like_is_compared_with_like(self):
        results = [
            result("pgd", 50.0),
            result("fgsm", 10.0, eps=8 / 255),
            result("square", 10.0, norm="l2"),
            result("square", 10.0, images=500),
        ]
        assert masking_warnings(results) == []

    def test_the_strongest_attack_along_the_gradient_counts(self):
        results = [result("pgd", 50.0), result("apgd-ce", 45.0), result("square", 46.0)]
        assert masking_warnings(results) == []

    def test_without_a_bound_nothing_may_be_left(self):
        assert masking_warnings([result("pgd", 0.0, eps=1.0)]) == []
        assert masking_warnings([result("pgd", 5.0, eps=1.0, norm="l2")]) == []
        (warning,) = masking_warnings([result("pgd", 0.1, eps=1.0)])
        assert "without a bound on eps leaves 0.1 % right" in warning


def result(attack, accuracy, images=1000, eps=4 / 255, norm="linf"):
    return {
        "measure": "attack",
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "images": images,
        "accuracy": accuracy,
    }
