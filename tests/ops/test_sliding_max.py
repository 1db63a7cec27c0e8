"""The sliding maximum against PyTorch's pool, on every way that it may take."""

import pytest
import torch
import torch.nn.functional as F

from timm_asap.ops.sliding_max import sliding_max2d

WINDOWS = [((3, 3), (1, 1), (1, 1)), ((2, 2), (0, 0), (1, 1)), ((5, 3), (2, 0), (1, 1)), ((3, 2), (1, 1), (2, 3))]


@pytest.mark.parametrize(("kernel_size", "padding", "dilation"), WINDOWS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_max_pool(kernel_size, padding, dilation, memory_format):
    x = torch.randn(2, 3, 11, 12).round(decimals=1).contiguous(memory_format=memory_format)
    x[0, 0, 3, 4] = torch.nan
    expected = F.max_pool2d(x, kernel_size, 1, padding, dilation)
    torch.testing.assert_close(sliding_max2d(x, kernel_size, padding, dilation), expected, equal_nan=True)
    torch.testing.assert_close(sliding_max2d(x[0], kernel_size, padding, dilation), expected[0], equal_nan=True)


def test_ties_get_max_pools_gradient():
    x = torch.randn(2, 3, 8, 9).relu().round()  # many ties
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(2, 3, 8, 9)
    (sliding_max2d(ours, (3, 3), (1, 1), (1, 1)) * weight).sum().backward()
    (F.max_pool2d(theirs, 3, 1, 1) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
