"""MyLinear is nn.Linear, written out."""

import pytest
import torch
from torch import nn

from {{ cookiecutter.__package_name }}.model import (
    Classifier,
    ModelConfig,
    MyLinear,
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (0, 5)])
def test_forward_and_gradients_equal_those_of_nn_linear(bias: bool, shape: tuple[int, ...]) -> None:
    reference = nn.Linear(5, 4, bias)
    layer = MyLinear(5, 4, bias)
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(shape, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    layer(x).square().sum().backward()
    reference(y).square().sum().backward()
    assert torch.equal(layer(x), reference(y))
    assert x.grad is not None and y.grad is not None
    assert torch.equal(x.grad, y.grad)
    for ours, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_without_bias_there_is_none() -> None:
    layer = MyLinear(3, 2, bias=False)
    assert layer.bias is None
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert torch.equal(layer(torch.zeros(3)), torch.zeros(2))


def test_the_scale_of_the_output_does_not_grow_with_the_width() -> None:
    torch.manual_seed(0)
    spreads = [MyLinear(n, 500)(torch.randn(500, n)).std().item() for n in (10, 100, 1000)]
    assert max(spreads) < 1
    assert max(spreads) / min(spreads) < 1.2


def test_it_tells_its_size_when_printed() -> None:
    assert repr(MyLinear(3, 2)) == "MyLinear(in_features=3, out_features=2)"


def test_the_classifier_is_made_of_mylinear_and_drops_out_in_training_alone() -> None:
    torch.manual_seed(0)
    model = Classifier(16, 3, ModelConfig(hidden=64, dropout=0.5))
    assert sum(isinstance(module, MyLinear) for module in model.modules()) == 2
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    x = torch.ones(4, 16, dtype=torch.uint8)
    assert model(x).shape == (4, 3)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    assert torch.equal(model(x), model(x))
