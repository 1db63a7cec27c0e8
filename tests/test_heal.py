"""Healing: BatchNorm statistics against direct sums, and the images it takes."""

import copy

import pytest
import timm
import torch
from heal_networks import BUFFERS, buffers, images, network, same, trained_alike
from timm.layers import freeze_batch_norm_2d
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from timm_asap import convert, heal


class TestBatchNorm:
    def test_is_exact_over_batches_of_any_size(self):
        x = images(103)
        model = network()
        convert(model)
        with torch.no_grad():
            first = model[0](x).double()
        report = heal(model, [x[:40], x[40:73], x[73:]])
        assert report.images == 103
        assert report.batchnorm == ("1", "3", "6")
        mean, var = first.mean(dim=(0, 2, 3)), first.var(dim=(0, 2, 3), correction=1)
        torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(model[1].running_var.double(), var, rtol=1e-5, atol=1e-6)

    def test_one_batch_is_what_pytorch_accumulates_in_training(self):
        x = images(64)
        model = network()
        convert(model)
        expected = trained_alike(copy.deepcopy(model), x)
        heal(model, x)
        for name, value in buffers(expected).items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5)

    def test_leaves_everything_else_as_found(self):
        model = network()
        convert(model)
        model.train()
        model[3].eval()
        model[1].momentum = 0.37
        model[3].num_batches_tracked += 5
        before = copy.deepcopy(model.state_dict())
        heal(model, images(40))
        assert [m.training for m in model] == [True, True, True, False, True, True, True]
        assert (model[1].momentum, int(model[3].num_batches_tracked)) == (0.37, 5)
        assert all(m.track_running_stats for m in (model[1], model[3], model[6]))
        after = model.state_dict()
        changed = {k for k in before if not torch.equal(before[k], after[k])}
        assert changed == {f"{i}.{b}" for i in (1, 3, 6) for b in BUFFERS}

    def test_writes_nothing_when_the_images_fail(self):
        model = network().train()
        convert(model)
        before = copy.deepcopy(model.state_dict())

        def failing():
            yield images(40)
            yield images(40)
            raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            heal(model, failing())
        with pytest.raises(ValueError, match=r"input of 1 is not finite: check the images"):
            heal(model, images(40) / 0)
        assert same(before, model.state_dict())
        assert all(m.training for m in model)
        assert model[1].track_running_stats

    def test_layers_without_statistics_of_their_own_are_left(self):
        model = network()
        model[3] = nn.BatchNorm2d(6, track_running_stats=False)
        model.unused = nn.BatchNorm2d(4)
        model.forward = lambda x: nn.Sequential(*list(model)[:7])(x)
        frozen = freeze_batch_norm_2d(network())
        convert(model)
        convert(frozen)
        report = heal(model, images(40))
        assert report.batchnorm == ("1", "6")
        assert report.batchnorm_left == ("unused",)
        assert "unused: left: no image reached it" in str(report)
        assert torch.equal(model.unused.running_mean, torch.zeros(4))
        before = copy.deepcopy(frozen.state_dict())
        heal(frozen, images(40))
        changed = {k for k, v in frozen.state_dict().items() if not torch.equal(v, before[k])}
        assert changed == {"6.running_mean", "6.running_var"}

    def test_a_network_without_it_is_told(self):
        model = timm.create_model("test_convnext_asap").eval()
        before = copy.deepcopy(model.state_dict())
        with pytest.warns(UserWarning, match="the network has no BatchNorm.*try refit=True"):
            report = heal(model, images(8, size=64))
        assert report.note == "the network has no BatchNorm: there are no statistics to re-estimate"
        assert same(before, model.state_dict())


class TestImages:
    def statistics(self, source, **options):
        model = network()
        convert(model)
        return heal(model, source, **options), buffers(model)

    def test_every_form_gives_the_same(self):
        x = images(96)
        report, expected = self.statistics(x, batch_size=48)
        loader = DataLoader(TensorDataset(x, torch.arange(96)), batch_size=48)
        for source in (list(x.split(48)), iter(x.split(48)), loader, [(part, None) for part in x.split(48)]):
            again, found = self.statistics(source)
            assert again == report
            assert same(found, expected)

    def test_batches_of_a_few_images_are_merged(self):
        x = images(70)
        _, expected = self.statistics([x[:32], x[32:]])
        _, found = self.statistics(list(x.split(1)))
        assert same(found, expected)

    @pytest.mark.parametrize("source", [lambda x: x, lambda x: x.split(20)])
    def test_limit_takes_the_first(self, source):
        x = images(90)
        report, found = self.statistics(source(x), limit=50, batch_size=50)
        assert report.images == 50
        _, expected = self.statistics(source(x[:50]), batch_size=50)
        assert same(found, expected)

    def test_limit_asks_for_no_batch_beyond_it(self):
        def endless():
            while True:
                yield images(32)

        assert self.statistics(endless(), limit=64)[0].images == 64

    @pytest.mark.parametrize(
        ("source", "error", "text"),
        [
            (3, TypeError, "expected a tensor, batches or a data loader, got int"),
            ({"a": 1}, TypeError, "got dict"),
            (["a"], TypeError, r"expected batches of tensors, or \(images, labels\), got str"),
            (images(4)[0], ValueError, r"expected batches of shape \(B, C, H, W\), got \(3, 16, 16\)"),
            (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), TypeError, "normalised for the model, got torch.uint8"),
            ([], ValueError, "expected at least 2, got 0"),
            (images(1), ValueError, "expected at least 2, got 1"),
            ([images(4), images(4, size=20)], ValueError, "these differ in size"),
        ],
    )
    def test_what_is_no_image_is_said(self, source, error, text):
        with pytest.raises(error, match=text):
            self.statistics(source)
