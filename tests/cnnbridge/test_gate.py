"""Input that no layer can read gets one sentence, whichever function it is given to."""

import types

import pytest
import torch
from torch import nn

from cnnbridge import (
    Geometry,
    PatchOperator,
    compare_normalizations,
    full_spectrum,
    group_weights,
    layer_problem,
    patch_autocorrelation,
    patch_moments,
    predict_layer,
    sampled_autocorrelation,
    unfold_patches,
)
from cnnbridge.layers.patches import taps_per_output

CONV = nn.Conv2d(1, 2, 3)
READERS = {
    "unfold_patches": unfold_patches,
    "patch_autocorrelation": patch_autocorrelation,
    "lags": lambda x, conv: patch_autocorrelation(x, conv, method="lags"),
    "sampled_autocorrelation": lambda x, conv: sampled_autocorrelation(x, conv, fraction=0.5),
    "PatchOperator": PatchOperator,
    "patch_moments": patch_moments,
    "compare_normalizations": compare_normalizations,
    "layer_problem": lambda x, conv: layer_problem(conv, x, torch.zeros(2, 2, 3, 3)),
    "predict_layer": lambda x, conv: predict_layer(
        conv, x, torch.zeros(2, 2, 3, 3), lr=0.1, steps=1
    ),
}
TENSORS = {
    "meta": (torch.ones(2, 1, 5, 5, device="meta"), "must hold values; got a meta tensor"),
    "sparse": (torch.ones(2, 1, 5, 5).to_sparse(), r"must be a dense tensor; got .*\.to_dense"),
    "nested": (
        torch.nested.nested_tensor([torch.ones(1, 5, 5), torch.ones(2, 5, 5)], layout=torch.jagged),
        "must be one dense tensor; got a nested one",
    ),
    "float8": (
        torch.ones(2, 1, 5, 5).to(torch.float8_e4m3fn),
        r"must be a real floating-point tensor of 16 to 64 bits; got torch\.float8_e4m3fn",
    ),
    "complex": (torch.ones(2, 1, 5, 5, dtype=torch.complex64), "real floating-point tensor"),
    "integers": (torch.ones(2, 1, 5, 5, dtype=torch.int64), r"for example with \.float\(\)"),
}


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("reader", READERS)
def test_a_tensor_that_cannot_be_read(reader, kind):
    x, message = TENSORS[kind]
    with pytest.raises(TypeError, match=message) as caught:
        READERS[reader](x, CONV)
    assert str(caught.value).startswith("x must")


@pytest.mark.parametrize("reader", [r for r in READERS if r != "unfold_patches"])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e25), (torch.float64, 1e200)], ids=["float32", "float64"]
)
def test_squares_that_overflow(reader, dtype, size):
    x = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype) * size
    if reader == "PatchOperator":
        with pytest.raises(ValueError, match="x must have products that its precision can hold"):
            _ = PatchOperator(x, CONV) @ torch.ones(9, 1, dtype=torch.float64)
    elif dtype == torch.float64 or "autocorrelation" in reader or reader == "lags":
        with pytest.raises(ValueError, match="x must have products that its precision can hold"):
            READERS[reader](x, CONV)
    else:
        # these compute in float64
        READERS[reader](x, CONV)


@pytest.mark.parametrize("bias", [2, "no", None, 1.0])
@pytest.mark.parametrize(
    "call",
    [
        lambda bias: patch_autocorrelation(torch.ones(2, 1, 5, 5), CONV, bias=bias),
        lambda bias: unfold_patches(torch.ones(2, 1, 5, 5), CONV, bias=bias),
        lambda bias: PatchOperator(torch.ones(2, 1, 5, 5), CONV, bias=bias),
        lambda bias: taps_per_output(CONV, bias=bias),
        lambda bias: group_weights(CONV, bias=bias),
        lambda bias: sampled_autocorrelation(torch.ones(2, 1, 5, 5), CONV, fraction=1.0, bias=bias),
    ],
)
def test_the_bias_is_a_flag(call, bias):
    with pytest.raises(TypeError, match="bias must be True or False; got"):
        call(bias)


@pytest.mark.parametrize("dtype", [torch.int32, "float64", float, torch.complex64])
def test_a_precision_is_a_floating_point_dtype(dtype):
    x = torch.full((2, 1, 5, 5), 0.9)
    for call in (
        lambda: patch_autocorrelation(x, CONV, dtype=dtype),
        lambda: sampled_autocorrelation(x, CONV, fraction=1.0, dtype=dtype),
    ):
        with pytest.raises(TypeError, match=r"dtype must be torch\.float64, .* or None; got"):
            call()
    with pytest.raises(TypeError, match=r"products must be torch\.float64"):
        full_spectrum(torch.eye(2), products=dtype)


def test_a_forward_of_the_instance_is_another_layer():
    conv = nn.Conv2d(1, 2, 3)

    def padded(self, x):
        return nn.functional.conv2d(x, self.weight, self.bias, padding=1)

    conv.forward = types.MethodType(padded, conv)
    with pytest.raises(TypeError, match=r"conv must compute what torch\.nn\.Conv2d computes; .* f"):
        Geometry.of(conv)


def test_a_quantized_layer_is_named_in_full():
    class Linear(nn.Module):
        """As in torch.ao: the name of a plain layer, and none of its making."""

    with pytest.raises(TypeError, match=r"got tests\.cnnbridge\.test_gate\.Linear|got .*\.Linear"):
        Geometry.of(Linear())


def test_a_kernel_that_meets_padding_only():
    conv = nn.ConvTranspose2d(
        1, 1, (1, 2), padding=(1, 3), dilation=(3, 1), output_padding=(2, 0), stride=(3, 1)
    )
    x = torch.randn(1, 1, 1, 8)
    assert conv(x).shape == (1, 1, 1, 3)
    for method in ("auto", "lags", "unfold"):
        R = patch_autocorrelation(x, conv, method=method)
        assert torch.equal(R, torch.zeros(2, 2, dtype=torch.float64))


def test_products_of_a_tensor_made_in_inference_mode():
    plain = torch.randn(2, 1, 5, 5)
    with torch.inference_mode():
        operator = PatchOperator(plain.clone(), CONV)
        v = torch.ones(9, 1, dtype=torch.float64)
        product = operator @ v
    assert torch.equal(product, PatchOperator(plain, CONV) @ torch.ones(9, 1, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor or an iterable of batches"):
        PatchOperator(None, CONV)
