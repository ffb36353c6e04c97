"""A model whose layers another tool has exchanged is refused in one line, and nothing of it is replaced."""

import functools
import types

import pytest
from torch import nn

from tunesmith import fast
from tunesmith.errors import ModelError


class LigerSwiGLUMLP(nn.Module):
    """Of the form of Liger's: no act_fn."""

    def __init__(self, mlp):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x):
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


class LigerRMSNorm(nn.Module):
    """Without variance_epsilon."""

    def __init__(self, norm):
        super().__init__()
        self.weight = norm.weight

    def forward(self, x):
        return nn.functional.rms_norm(x, self.weight.shape, self.weight)


def fused_loss(self, **inputs):
    return None


def exchange_mlp(model):
    layer = model.model.layers[1]
    layer.mlp = LigerSwiGLUMLP(layer.mlp)


def exchange_norm(model):
    layer = model.model.layers[0]
    layer.input_layernorm = LigerRMSNorm(layer.input_layernorm)


def bind_norm(model):
    norm = model.model.layers[0].input_layernorm
    norm.forward = types.MethodType(LigerRMSNorm.forward, norm)


def bind_loss(model):
    model.forward = types.MethodType(fused_loss, model)


def exchange_class(model):
    layer = model.model.layers[1]
    layer.__class__ = type("FastLayer", (type(layer),), {"__module__": "other.layers"})


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        (exchange_mlp, r"model\.layers\.1\.mlp is LigerSwiGLUMLP of .*test_untouched"),
        (exchange_norm, r"model\.layers\.0\.input_layernorm is LigerRMSNorm of "),
        (bind_norm, r"model\.layers\.0\.input_layernorm is LlamaRMSNorm with a forward of .*test_untouched"),
        (bind_loss, r"the model is LlamaForCausalLM with a forward of "),
        (exchange_class, r"model\.layers\.1 is FastLayer of other\.layers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_another_tool_put_there_is_named(build, patch, named):
    model = build("llama")
    patch(model)
    before = [module.__dict__.get("forward") for module in model.modules()]
    with pytest.raises(ModelError, match=named) as error:
        fast.apply(model)
    assert len(str(error.value).splitlines()) == 1
    assert [module.__dict__.get("forward") for module in model.modules()] == before


class Quantised(nn.Module):
    """A linear layer of another make."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.in_features, self.weight = [linear], linear.in_features, linear.weight

    def forward(self, x):
        return self.linear[0](x)


def test_linear_layers_may_be_of_any_make_and_hooks_may_stand_before_a_layer(build):
    model = build("llama")
    layer = model.model.layers[0]
    layer.mlp.up_proj = Quantised(layer.mlp.up_proj)
    layer._hf_hook, plain = object(), layer.forward
    layer.forward = functools.partial(lambda module, *args, **kwargs: plain(*args, **kwargs), layer)
    fast.apply(model).restore()
