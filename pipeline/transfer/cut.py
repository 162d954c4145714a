"""A network in two: below the freeze boundary and above it, sharing the very same modules.

The forward pass is traced (torch.fx, with the leaves that timm names for its own architectures) and cut
at the last place before the first trained layer where a single tensor is all that goes on. What lies
below is frozen, so its output may be computed once and kept; what lies above trains on that. Both halves
call the original modules: training the upper half trains the classifier, and its modes are theirs.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import fx, nn

from pipeline.backbone import features
from pipeline.errors import ParamsError
from pipeline.transfer.classifier import Classifier
from pipeline.transfer.freeze import layer_of
from pipeline.transfer.stages import EveryStage

__all__ = ["Pooled", "Upper", "cut", "whole"]


class Upper(nn.Module):
    """Activations at the cut to (logits, embedding)."""

    def __init__(self, graph: fx.GraphModule, head: nn.Linear) -> None:
        super().__init__()
        self.graph = graph
        self.head = head

    def forward(self, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.graph(activations)
        return self.head(embedding), embedding


class Pooled(nn.Module):
    """A backbone: pixels to pooled features."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return features(self.backbone, pixels)


def cut(classifier: Classifier, boundary: int) -> tuple[fx.GraphModule, Upper, str]:
    """The part below layer ``boundary`` (pixels to activations), the part above, and the name of the cut.

    Raises:
        ParamsError: the architecture can't be traced, or nothing can be cut off below the boundary.
    """
    root = Pooled(classifier.backbone).eval()
    graph = _traced(root)
    nodes = list(graph.nodes)
    place = _place(nodes, root, classifier.backbone, boundary)
    if place is None:
        raise ParamsError(
            f"{type(classifier.backbone).__name__} has no single tensor below layer {boundary} to cut at: "
            "set train.strategy to finetune, or another train.unfreeze"
        )
    lower, upper = fx.Graph(), fx.Graph()
    seen: dict[fx.Node, fx.Node] = {}
    for node in nodes[: place + 1]:
        seen[node] = lower.node_copy(node, lambda old: seen[old])
    lower.output(seen[nodes[place]])
    above: dict[fx.Node, fx.Node] = {nodes[place]: upper.placeholder("activations")}
    for node in nodes[:place]:
        if node.op == "get_attr":
            above[node] = upper.node_copy(node)
    for node in nodes[place + 1 :]:
        above[node] = upper.node_copy(node, lambda old: above[old])
    name = _name(nodes[: place + 1])
    halves = fx.GraphModule(root, lower), fx.GraphModule(root, upper)
    for half in halves:
        half.graph.eliminate_dead_code()
        half.recompile()
    return halves[0], Upper(halves[1], classifier.head), name


def whole(root: Pooled | EveryStage) -> fx.GraphModule:
    """All of a backbone as a graph, pixels to pooled features.

    Raises:
        ParamsError: the architecture can't be traced.
    """
    root.eval()
    return fx.GraphModule(root, _traced(root))


def _name(below: list[fx.Node]) -> str:
    """The last module below the cut, and the operation on its output where the cut lies behind one."""
    module = next((str(node.target) for node in reversed(below) if node.op == "call_module"), "")
    behind = "" if below[-1].op == "call_module" else f" + {below[-1].name.rsplit('_', 1)[0]}"
    return module.removeprefix("backbone.") + behind


def _traced(root: nn.Module) -> fx.Graph:
    from timm.models import _features_fx as known  # the leaves that timm's own feature extractor uses

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, tuple(known.get_notrace_modules())) or super().is_leaf_module(
                module, name
            )

    with _quietly():
        try:
            return Tracer(autowrap_functions=tuple(known.get_notrace_functions())).trace(root)
        except Exception as error:  # whatever a forward pass does that can't be traced
            raise ParamsError(
                f"{type(root.backbone).__name__} can't be traced ({str(error).splitlines()[0]}), so nothing can be cached "
                "at its freeze boundary: set train.strategy to finetune"
            ) from error


def _place(nodes: list[fx.Node], root: nn.Module, backbone: nn.Module, boundary: int) -> int | None:
    """Index of the last node that alone goes on, and below which no layer from ``boundary`` on has a parameter."""
    layers = {f"backbone.{name}": layer for name, layer in layer_of(backbone).items()}
    order = {node: number for number, node in enumerate(nodes)}
    last = {node: max((order[user] for user in node.users), default=order[node]) for node in nodes}
    found = None
    live: list[fx.Node] = []
    for number, node in enumerate(nodes):
        if max((layers.get(name, -1) for name in _parameters(node, root)), default=-1) >= boundary:
            break
        if node.op != "get_attr":
            live.append(node)
        live = [other for other in live if last[other] > number]
        if live == [node] and node.op not in ("placeholder", "output"):
            found = number
    return found


def _parameters(node: fx.Node, root: nn.Module) -> list[str]:
    """Full names of the parameters that a node uses itself."""
    target = str(node.target)
    if node.op == "get_attr":
        return [target]
    if node.op == "call_module":
        return [f"{target}.{name}" for name, _ in root.get_submodule(target).named_parameters()]
    return []


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():  # a traced assertion on shapes warns, and is the network's own affair
        warnings.simplefilter("ignore")
        yield
