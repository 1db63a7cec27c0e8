"""Fidelity against hand-worked numbers, statistics moved with the plain network's, and repairs that do no harm."""

import copy
import importlib
import math

import pytest
import timm
import torch
from torch import nn

from tests.support.heal_networks import buffers, images, network, same, trained_alike
from timm_asap import convert, heal
from timm_asap.healing import Fidelity, measure_fidelity
from timm_asap.healing.batchnorm import batchnorm_layers, move_batchnorm, reestimate_batchnorm


def logits_of(*probabilities):
    return torch.tensor(probabilities).log()


class TestFidelity:
    def test_is_what_is_worked_out_by_hand(self):
        plain = logits_of([0.5, 0.25, 0.25], [0.2, 0.4, 0.4 - 1e-6], [0.25, 0.5, 0.25], [0.3, 0.3 - 1e-6, 0.4])
        other = logits_of([0.25, 0.5, 0.25], [0.2, 0.4, 0.4 - 1e-6], [0.25, 0.5, 0.25], [0.3, 0.3 - 1e-6, 0.4])
        found = Fidelity.of(plain, other)
        # the first image alone differs: 0.5 log(0.5 / 0.25) + 0.25 log(0.25 / 0.5) = 0.25 log 2
        assert found.kl == pytest.approx(0.25 * math.log(2) / 4, abs=1e-6)
        assert (found.images, found.agreement) == (4, 75.0)
        # Wilson's interval of 3 of 4: 30.06 to 95.44 %
        assert found.agreement_interval == pytest.approx((30.06, 95.44), abs=0.01)
        # standard error of (k, 0, 0, 0) is k / 4, its mean k / 4
        k = 0.25 * math.log(2)
        assert found.kl_interval == pytest.approx((0.0, k / 4 + 1.959964 * k / 4), abs=1e-6)
        assert found.error == pytest.approx(((other - plain).norm() / plain.norm()).item())

    def test_confident_images_are_those_above_three_tenths(self):
        uniform = [0.25, 0.25 + 1e-4, 0.25, 0.25 - 1e-4]  # its top class has a probability of 0.2501
        plain = logits_of(uniform, [0.1, 0.7, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1])
        other = logits_of([0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1])
        found = Fidelity.of(plain, other)
        assert (found.confident_images, found.confident_agreement) == (2, 50.0)
        assert found.agreement == pytest.approx(100 / 3)
        assert Fidelity.of(plain[:1], other[:1]).confident_agreement is None

    def test_better_takes_both_measures(self):
        base = Fidelity(10, 0.5, 60.0, (30, 80), 0, None, 0.5, (0.4, 0.6))
        at = lambda agreement, kl: Fidelity(10, 0.5, agreement, (30, 80), 0, None, kl, (0.4, 0.6))  # noqa: E731
        assert at(60.0, 0.4).is_better_than(base)
        assert not at(50.0, 0.4).is_better_than(base)
        assert not at(70.0, 0.5).is_better_than(base)
        assert not at(60.0, math.nan).is_better_than(base)
        assert Fidelity(10, 0.4).is_better_than(Fidelity(10, 0.5))

    def test_networks_are_compared_in_evaluation_mode_and_left_as_found(self):
        plain = trained_alike(network(), images(64))
        model = copy.deepcopy(plain)
        convert(model)
        model.train()
        before = copy.deepcopy(model.state_dict())
        found = measure_fidelity(plain, model, images(20, seed=3).split(7))
        assert model.training
        assert same(before, model.state_dict())
        with torch.no_grad():
            expected = Fidelity.of(plain(images(20, seed=3)), model.eval()(images(20, seed=3)))
        assert found.agreement == expected.agreement
        assert found.kl == pytest.approx(expected.kl, rel=1e-4)

    def test_without_a_classifier_the_relative_error_counts(self):
        x = images(20, size=64)
        for options in ({"num_classes": 0}, {"features_only": True}):
            plain = timm.create_model("test_resnet", **options).eval()
            model = copy.deepcopy(plain)
            convert(model)
            found = measure_fidelity(plain, model, [x])
            assert found.kl is None
            assert 0 < found.error < 2
            assert "relative error" in str(found)


class TestMovedStatistics:
    def test_images_of_another_distribution_move_nothing_where_the_network_did_not_change(self):
        model = trained_alike(network(), images(64))
        before = buffers(model)
        moved, left = move_batchnorm(model, copy.deepcopy(model), [3 * images(40, seed=1) + 1])
        assert (moved, left) == (("1", "3", "6"), ())
        for name, value in buffers(model).items():
            torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-5)
        replaced = copy.deepcopy(model)
        reestimate_batchnorm(replaced, [3 * images(40, seed=1) + 1])
        assert not torch.allclose(replaced[1].running_var, model[1].running_var, rtol=0.5)

    def test_by_ratio_of_variances_and_shift_in_standard_deviations(self):
        plain = nn.Sequential(nn.Conv2d(1, 1, 1, bias=True), nn.BatchNorm2d(1)).eval()
        nn.init.constant_(plain[0].weight, 2.0)
        nn.init.constant_(plain[0].bias, 0.0)
        plain[1].running_mean.fill_(5.0)
        plain[1].running_var.fill_(9.0)
        model = copy.deepcopy(plain)
        nn.init.constant_(model[0].weight, 6.0)  # three times the standard deviation
        nn.init.constant_(model[0].bias, 1.0)
        x = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)  # mean 0, unbiased variance 2
        move_batchnorm(model, plain, [x])
        # plain input: mean 0, variance 8; here: mean 1, variance 72
        assert model[1].running_var.item() == pytest.approx(9 * 72 / 8, rel=1e-4)
        assert model[1].running_mean.item() == pytest.approx(5 + 3 * 1 / math.sqrt(8), rel=1e-4)

    def test_a_layer_behind_is_moved_by_what_it_gets_after_the_repair(self):
        """In front the change is one of scale, which the first layer's moved statistics undo exactly."""
        plain = trained_alike(
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
            images(64),
        )
        model = copy.deepcopy(plain)
        model[0].weight.data *= 5
        model[0].bias.data *= 5
        move_batchnorm(model, plain, images(64).split(32))
        for name, value in buffers(plain).items():
            if name.startswith("4."):
                torch.testing.assert_close(buffers(model)[name], value, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            torch.testing.assert_close(model(images(9)), plain(images(9)), rtol=1e-2, atol=1e-3)

    def test_nothing_is_written_when_an_input_is_not_finite(self):
        model = trained_alike(network(), images(64))
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match="the input of 1 is not finite"):
            move_batchnorm(model, copy.deepcopy(model), [images(8) / 0])
        assert same(before, model.state_dict())

    def test_channels_without_variance_stay(self):
        plain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval()
        plain[0].weight.data[0] = 0
        model = copy.deepcopy(plain)
        move_batchnorm(model, plain, [images(8)])
        assert model[1].running_var.tolist() == pytest.approx([1.0, 1.0])


class TestHarmless:
    """Whatever is broken on purpose, heal ends no lower than it began, and says what it kept."""

    def trained(self):
        torch.manual_seed(0)
        plain = trained_alike(timm.create_model("test_resnet", num_classes=10), images(160, size=32))
        model = copy.deepcopy(plain)
        convert(model, layout="paper")
        return plain, model

    def fidelity(self, plain, model):
        return measure_fidelity(plain, model, images(64, size=32, seed=9).split(32))

    @pytest.mark.parametrize("options", [{}, {"refit": True}, {"training_distribution": True}])
    def test_broken_statistics_are_repaired_or_left(self, options):
        plain, model = self.trained()
        for number, layer in enumerate(batchnorm_layers(model).values()):
            layer.running_var.mul_(4.0 if number % 2 else 0.25)
        before = self.fidelity(plain, model)
        report = heal(model, images(160, size=32), plain=plain, **options)
        assert report.changed
        assert report.after.is_better_than(report.before)
        assert self.fidelity(plain, model).kl < before.kl

    def test_images_of_another_distribution_do_no_harm(self):
        plain, model = self.trained()
        before = copy.deepcopy(model.state_dict())
        foreign = 5 * torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 4
        report = heal(model, foreign, plain=plain, training_distribution=True)
        ruined = copy.deepcopy(model)
        reestimate_batchnorm(ruined, [foreign])
        assert self.fidelity(plain, ruined).kl > self.fidelity(plain, model).kl
        if not report.changed:
            assert same(before, model.state_dict())

    def test_a_repair_that_does_not_help_is_undone_and_reported(self, monkeypatch):
        plain, model = self.trained()
        before = copy.deepcopy(model.state_dict())

        def spoil(model, plain, batches):
            for layer in batchnorm_layers(model).values():
                layer.running_var.mul_(0.01)
            list(batches)
            return tuple(batchnorm_layers(model)), ()

        monkeypatch.setattr(importlib.import_module("timm_asap.healing.heal"), "move_batchnorm", spoil)
        report = heal(model, images(60, size=32), plain=plain)
        assert same(before, model.state_dict())
        assert not report.changed
        assert report.batchnorm == ()
        assert report.after == report.before
        assert "after statistics" in str(report)
        assert "not kept, it does not help" in str(report)
        assert "nothing changed" in str(report)

    def test_the_report_is_of_held_out_images(self):
        plain, model = self.trained()
        x = images(100, size=32)
        start = copy.deepcopy(model)
        report = heal(model, x, plain=plain)
        assert (report.images, report.held_out) == (100, 20)
        assert report.before == measure_fidelity(plain, start, [x[::5]])
        assert report.after == measure_fidelity(plain, model, [x[::5]])
