"""Frozen BatchNorms merged into their convolutions: the same network, the same gradients, fewer passes."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from pipeline.transfer.classifier import Classifier
from pipeline.transfer.cut import Pooled, cut, whole
from pipeline.transfer.folding import folded
from pipeline.transfer.freeze import freeze, lowest_trained
from pipeline.transfer.lora import LowRank, adapt_layers
from pipeline.transfer.merging import Merged, merged

SIDE = 64  # px


def classifier(
    name: str, *, share: float = 0.5, keep_statistics: bool = True, **options: object
) -> Classifier:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **options)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5), (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5), (module.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                tensor.uniform_(low, high)
    width = backbone.eval()(torch.rand(1, 3, SIDE, SIDE)).shape[1]
    whole = Classifier(backbone, width, 3).double()
    freeze(whole, share, keep_statistics=keep_statistics)
    return whole.train()


def answers_and_gradients(
    network: nn.Module, owner: nn.Module, inputs: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    owner.zero_grad(set_to_none=True)
    logits = network(inputs)[0]
    functional.cross_entropy(logits, torch.arange(len(inputs)) % 3).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in owner.named_parameters() if p.grad is not None}


def parts(network: nn.Module) -> list[Merged]:
    return [module for module in network.modules() if isinstance(module, Merged)]


@pytest.mark.parametrize(
    "name", ["mobilenetv2_050", "resnet10t", "efficientnet_lite0", "densenet121", "regnetx_002"]
)
def test_answers_and_gradients_are_those_of_the_network_itself(name: str) -> None:
    own = classifier(name)
    inputs = torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64)
    expected, gradients = answers_and_gradients(own, own, inputs)
    made = merged(own, own)
    assert parts(made)
    answers, found = answers_and_gradients(made, own, inputs)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-10)
    assert found.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-8, atol=1e-10, msg=parameter)


def test_a_network_that_pads_as_tensorflow_does_is_merged_and_folded_whole() -> None:
    own = classifier("mobilenetv2_050", pad_type="same")
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in own.modules())
    inputs = torch.rand(3, 3, SIDE + 1, SIDE - 1, dtype=torch.float64)  # padded unevenly
    expected, gradients = answers_and_gradients(own, own, inputs)
    made = merged(own, own)
    assert len(parts(made)) == norms
    answers, found = answers_and_gradients(made, own, inputs)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-10)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-8, atol=1e-10, msg=parameter)
    read = folded(whole(Pooled(own.eval().backbone)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in read.modules())
    torch.testing.assert_close(read(inputs), own(inputs)[1], rtol=1e-9, atol=1e-10)


def test_bfloat16_spares_the_convolutions_that_it_makes_slower() -> None:
    """Depthwise ones at stride 2 run in float32, the others in bfloat16, and the network answers much the same."""
    own = classifier("mobilenetv2_050").float()
    made = merged(own, own)
    kinds: dict[tuple[int, bool], set[torch.dtype]] = {}
    for part in parts(made):
        key = (part.convolution.stride[0], part.convolution.groups > 1)
        part.register_forward_hook(
            lambda module, args, output, key=key: kinds.setdefault(key, set()).add(output.dtype)
        )
    inputs = torch.rand(3, 3, SIDE, SIDE)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients = answers_and_gradients(made, own, inputs)
    assert kinds == {
        (2, False): {torch.bfloat16},  # the stem
        (1, False): {torch.bfloat16},
        (1, True): {torch.bfloat16},
        (2, True): {torch.float32},
    }
    expected, exact = answers_and_gradients(made, own, inputs)
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.05)
    assert gradients.keys() == exact.keys()


def test_adapters_learn_from_the_same_gradients() -> None:
    own = classifier("mobilenetv2_050")
    adapted = adapt_layers(own, 4, 1.0, seed=0)
    own.train()
    for module in own.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.double().up)
    inputs = torch.rand(3, 3, SIDE, SIDE, dtype=torch.float64)
    expected, gradients = answers_and_gradients(own, own, inputs)
    assert len(gradients) == 2 * len(adapted) + 2
    made = merged(own, own)
    assert len(parts(made)) == sum(isinstance(module, nn.BatchNorm2d) for module in own.modules())
    answers, found = answers_and_gradients(made, own, inputs)
    torch.testing.assert_close(answers, expected, rtol=1e-9, atol=1e-10)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-8, atol=1e-10, msg=parameter)


def test_folding_leaves_an_adapted_convolution_as_it_is() -> None:
    own = classifier("mobilenetv2_050").eval()
    adapt_layers(own, 4, 1.0, seed=0)
    own.double().eval()
    traced = whole(Pooled(own.backbone))
    made = folded(traced)
    assert any(isinstance(module, LowRank) for module in made.modules())
    inputs = torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64)
    torch.testing.assert_close(made(inputs), traced(inputs))


def test_the_upper_part_of_a_network_that_was_cut_is_merged_too_and_shares_its_parameters() -> None:
    own = classifier("mobilenetv2_050")
    lower, upper, _ = cut(own, lowest_trained(own.backbone, 0.5))
    made = merged(own, upper)
    assert len(parts(made)) == sum(isinstance(module, nn.BatchNorm2d) for module in upper.modules())
    assert {id(p) for p in made.parameters()} == {id(p) for p in upper.parameters()}
    inputs = lower(torch.rand(2, 3, SIDE, SIDE, dtype=torch.float64))
    torch.testing.assert_close(made(inputs)[0], upper(inputs)[0])
    with torch.no_grad():
        for parameter in own.backbone.blocks[-1].parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(made(inputs)[0], upper(inputs)[0])


def test_a_norm_whose_statistics_move_stays_as_it_is() -> None:
    own = classifier("resnet10t", share=0.5, keep_statistics=False)
    moving = [
        module for module in own.backbone.modules()
        if isinstance(module, nn.BatchNorm2d) and module not in own.still
    ]  # fmt: skip
    assert moving
    made = merged(own, own)
    assert parts(made)
    assert {id(part.norm) for part in parts(made)} <= {id(module) for module in own.still}
    before = [module.running_mean.clone() for module in moving]
    made(torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64))
    assert all(not torch.equal(old, module.running_mean) for old, module in zip(before, moving, strict=True))


@pytest.mark.parametrize(
    ("name", "options"), [("vit_tiny_patch16_224", {"img_size": SIDE}), ("convnext_atto", {})]
)
def test_a_network_without_such_norms_is_given_back(name: str, options: dict[str, int]) -> None:
    own = classifier(name, **options)
    assert merged(own, own) is own


@pytest.mark.parametrize("asked", ["drop_rate", "drop_path_rate"])
def test_a_network_that_drops_at_random_is_given_back(asked: str) -> None:
    own = classifier("mobilenetv2_050", **{asked: 0.3})
    assert merged(own, own) is own


def test_what_a_norm_drops_is_dropped() -> None:
    conv, norm = nn.Conv2d(3, 8, 3, bias=True).double(), timm.layers.BatchNormAct2d(8).double().eval()
    norm.drop = nn.Dropout(1.0)
    inputs = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    part = Merged(conv, norm)
    torch.testing.assert_close(part(inputs), norm(conv(inputs)))
    norm.drop.train()
    assert np.count_nonzero(part(inputs).detach().numpy()) == 0
