import copy
import gc
import pickle
import sys
import weakref

import pytest
import torch
from torch import nn

from cnnbridge import capture


class Net(nn.Module):
    """All that could be left disturbed: BatchNorm, dropout, in-place ReLU, frozen weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(3, 4, 3, stride=2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 3 * 3, 5)

    def forward(self, x):
        x = self.act(self.bn(self.conv1(x)))
        x = self.act(self.conv2(x))
        return self.head(self.drop(x.flatten(1)))


def net():
    torch.manual_seed(0)
    model = Net()
    model.conv1.weight.requires_grad_(False)
    model.drop.eval()
    model.bn.register_forward_hook(lambda *_: None)
    # a gradient of its own, which must survive
    model.head.weight.grad = torch.ones_like(model.head.weight)
    return model


def batches(sizes=(4, 4, 3)):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 1, 8, 8, generator=generator), torch.randint(5, (n,), generator=generator))
        for n in sizes
    ]


def state(model):
    """All that a careless recorder could change."""
    return {
        "training": [m.training for m in model.modules()],
        "buffers": {k: (id(b), b.clone()) for k, b in model.named_buffers()},
        "parameters": {k: (id(p), p.detach().clone()) for k, p in model.named_parameters()},
        "grads": {
            k: None if p.grad is None else (id(p.grad), p.grad.clone())
            for k, p in model.named_parameters()
        },
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "hooks": [
            [list(getattr(m, name)) for name in vars(m) if name.endswith("_hooks")]
            for m in model.modules()
        ],
        "flags": [list(m._forward_hooks_with_kwargs) for m in model.modules()],
        "random": torch.get_rng_state(),
    }


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_same(before, after):
    for key in before:
        assert equal(before[key], after[key]), key


def test_records_what_autograd_says():
    model, data = net(), batches()
    reference = copy.deepcopy(model)
    with capture(model, "conv2") as tape:
        tape.run(data, nn.CrossEntropyLoss())
    assert tape.batch_sizes == (4, 4, 3)
    inputs, outputs, gradients = [], [], []
    for x, y in data:
        u = reference.act(reference.bn(reference.conv1(x)))
        out = reference.conv2(u)
        out.retain_grad()
        score = reference.head(reference.drop(out.relu().flatten(1)))
        nn.CrossEntropyLoss()(score, y).backward()
        inputs.append(u.detach())
        outputs.append(out.detach())
        gradients.append(out.grad)
    torch.testing.assert_close(tape.inputs, torch.cat(inputs))
    torch.testing.assert_close(tape.outputs, torch.cat(outputs))
    torch.testing.assert_close(tape.output_gradients, torch.cat(gradients))


def test_the_recorded_stream_gives_the_layers_gradient():
    """LMS with error -dL/dy: the weight gradient is the sum over positions of dL/dy u'."""
    model = net()
    x, y = batches((6,))[0]
    with capture(model, "conv2") as tape:
        tape.run([(x, y)], nn.CrossEntropyLoss())
    model.zero_grad()
    nn.CrossEntropyLoss()(model(x), y).backward()
    gradient = torch.nn.grad.conv2d_weight(
        tape.inputs, model.conv2.weight.shape, tape.output_gradients, stride=2
    )
    torch.testing.assert_close(gradient, model.conv2.weight.grad)


def test_unit_of_the_gradients():
    model, data = net().eval(), batches((4, 2))
    with capture(model, "conv2") as tape:
        tape.run(data, nn.CrossEntropyLoss())
    with capture(model, "conv2") as summed:
        summed.run(data, nn.CrossEntropyLoss(reduction="sum"))
    share = torch.tensor([4.0] * 4 + [2.0] * 2).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(tape.output_gradients * share, summed.output_gradients)


@pytest.mark.parametrize("mode", ["as it is", "train", "eval"])
def test_leaves_no_trace(mode):
    model, data = net(), batches()
    model.train(mode != "eval")
    before = state(model)
    with capture(model, "conv2") as tape:
        if mode != "as it is":
            model.train(mode == "train")
        for p in model.parameters():
            p.requires_grad_(True)
        tape.run(data, nn.CrossEntropyLoss())
        # and what a user may do besides
        torch.randn(3)
        nn.CrossEntropyLoss()(model(data[0][0]), data[0][1]).backward()
    assert_same(before, state(model))


class BrokenError(Exception):
    pass


def broken(*_):
    raise BrokenError


@pytest.mark.parametrize("where", ["loss", "model", "loader", "block"])
def test_leaves_no_trace_after_an_exception(where):
    model, data = net(), batches()
    handle = model.head.register_forward_pre_hook(broken) if where == "model" else None
    before = state(model)

    def loader():
        yield data[0]
        raise BrokenError

    def attempt(tape):
        if where == "loader":
            tape.run(loader(), nn.CrossEntropyLoss())
        elif where == "block":
            tape.run(data, nn.CrossEntropyLoss())
            raise BrokenError
        else:
            tape.run(data, broken if where == "loss" else nn.CrossEntropyLoss())

    with pytest.raises(BrokenError), capture(model, "conv2") as tape:  # noqa: PT012
        model.eval()
        model.bn.running_mean += 1
        attempt(tape)
    assert_same(before, state(model))
    assert len(tape._inputs) == len(tape._gradients) == len(tape.batch_sizes)
    if handle is not None:
        handle.remove()


def test_a_buffer_that_is_replaced_comes_back():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("later", None)

        def forward(self, x):
            self.count = self.count + 1
            self.later = torch.ones(())
            self.register_buffer("extra", torch.ones(()))
            return self.conv(x)

    model = Counter()
    count = model.count
    with capture(model, "conv") as tape:
        tape.run([torch.ones(1, 1, 2, 2)])
        assert model.count == 1
    assert model.count is count
    assert model.count == 0
    assert model.later is None
    assert not hasattr(model, "extra")


def test_without_loss_there_is_no_graph():
    model = net()
    with capture(model, "conv2") as tape:
        tape.run([x for x, _ in batches()])
    assert tape.inputs.shape == (11, 3, 8, 8)
    assert not tape.outputs.requires_grad
    with pytest.raises(RuntimeError, match="output gradients were recorded for 0 of 3 passes"):
        _ = tape.output_gradients


def test_a_loss_without_target():
    with capture(net(), "conv2") as tape:
        tape.run([x for x, _ in batches()], lambda y: y.square().sum())
    assert tape.output_gradients.shape == (11, 4, 3, 3)


def test_a_frozen_model_has_gradients_too():
    model = net().requires_grad_(False)
    with capture(model, "conv1") as tape, torch.no_grad():
        tape.run(batches(), nn.CrossEntropyLoss())
    assert tape.output_gradients.abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())


def test_a_layer_used_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x).relu())

    model = Twice()
    x = torch.randn(3, 2, 5, 5)
    with capture(model, "conv") as tape:
        tape.run([x], lambda y: y.square().mean())
    model(x).square().mean().backward()
    gradient = torch.nn.grad.conv2d_weight(
        tape.inputs, model.conv.weight.shape, tape.output_gradients, padding=1
    )
    torch.testing.assert_close(gradient, model.conv.weight.grad)


def test_the_layers_own_output_not_that_of_other_hooks():
    model = net()
    model.conv2.register_forward_hook(lambda module, args, output: output * 0)
    with capture(model, "conv2") as tape:
        tape.run(batches())
    assert tape.outputs.abs().sum() > 0


def test_direct_calls_and_keyword_inputs():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x):
            return self.conv(input=x)

    model = Keyword()
    x = torch.randn(2, 1, 3, 3)
    with capture(model, "conv") as tape:
        model(x)
    torch.testing.assert_close(tape.inputs, x)
    model(x)
    assert len(tape.inputs) == 2


def test_an_unknown_name_lists_the_layers():
    with (
        pytest.raises(ValueError, match="got 'nope'; its conv and linear layers are 'conv1', 'c"),
        capture(net(), "nope"),
    ):
        pass
    with (
        pytest.raises(ValueError, match="its conv and linear layers are none"),
        capture(nn.ReLU(), "conv"),
    ):
        pass


def test_what_is_not_a_model():
    with (
        pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module; got function"),
        capture(net, "conv"),
    ):
        pass


def test_a_compiled_model_is_refused():
    model = net()
    compiled = torch.compile(model, backend="eager")
    assert "torch._dynamo.eval_frame" in sys.modules
    part = net()
    part.conv1 = torch.compile(part.conv1, backend="eager")
    in_place = net()
    in_place.compile(backend="eager")
    for m in (compiled, part, in_place):
        with pytest.raises(TypeError, match="pass the model from before"), capture(m, "conv2"):
            pass
    with capture(compiled._orig_mod, "conv2") as tape:
        tape.run(batches())
    assert len(tape.inputs) == 11


def test_a_deep_copy_and_a_saved_file_record_nothing():
    model, (x, y) = Net(), batches()[0]
    with capture(model, "conv2") as tape:
        tape.run([(x, y)], nn.CrossEntropyLoss())
        others = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for other in others:
            assert other(x).shape == (4, 5)
        assert len(tape.inputs) == 4
    reference = weakref.ref(tape)
    del tape
    gc.collect()
    assert reference() is None
    for other in others:
        other(x)
    assert b"cnnbridge" not in pickle.dumps(others[0].conv2)


class Teacher(nn.Module):
    """Uses a layer twice, once without gradients."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        with torch.no_grad():
            wanted = self.conv(x)
        return self.conv(x.flip(0)) - wanted


def test_a_use_without_gradients_has_gradient_zero():
    model, x = Teacher(), torch.randn(3, 2, 5, 5)
    with capture(model, "conv") as tape:
        tape.run([x], lambda y: y.square().sum())
    assert torch.equal(tape.output_gradients[:3], torch.zeros(3, 2, 5, 5))
    model(x).square().sum().backward()
    gradient = torch.nn.grad.conv2d_weight(
        tape.inputs, model.conv.weight.shape, tape.output_gradients, padding=1
    )
    torch.testing.assert_close(gradient, model.conv.weight.grad)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.conv, self.reentrant = nn.Conv2d(2, 2, 3), reentrant

    def forward(self, x):
        part = nn.Sequential(self.conv, nn.ReLU())
        x = x + 0 * self.conv.weight.sum()
        return torch.utils.checkpoint.checkpoint(part, x, use_reentrant=self.reentrant)


def test_a_checkpointed_layer_is_recorded_once():
    model, x = Checkpointed(False), torch.randn(3, 2, 5, 5)
    with capture(model, "conv") as tape:
        tape.run([x], lambda y: y.square().sum())
    assert len(tape.inputs) == len(tape.output_gradients) == 3
    output = model.conv(x).detach()
    torch.testing.assert_close(tape.output_gradients, 2 * output.relu())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_reentrant_checkpoint_is_named():
    with (
        capture(Checkpointed(True), "conv") as tape,
        pytest.raises(RuntimeError, match="'conv' was called without gradients only, as under no"),
    ):
        tape.run([torch.randn(3, 2, 5, 5)], lambda y: y.square().sum())


def test_inside_inference_mode():
    model, (x, y) = net(), batches()[0]
    with capture(model, "conv2") as expected:
        expected.run([(x, y)], nn.CrossEntropyLoss())
    with torch.inference_mode(), capture(model, "conv2") as tape:
        tape.run([(x.clone(), y.clone())], nn.CrossEntropyLoss())
    assert torch.equal(tape.output_gradients, expected.output_gradients)


class Dictionary(Teacher):
    def forward(self, x):
        return {"out": self.conv(x)}


def test_a_model_that_returns_a_dictionary():
    x = torch.randn(3, 2, 5, 5)
    with capture(Dictionary(), "conv") as tape:
        tape.run([(x, x)], lambda output, target: (output["out"] - target).square().sum())
        assert len(tape.output_gradients) == 3
        with pytest.raises(TypeError, match="loss_fn must take what the model returns; got dict"):
            tape.run([(x, x)], nn.MSELoss())
    assert len(tape.inputs) == 3


def test_a_lazy_model_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.LazyConv2d(3, 1))
    with pytest.raises(ValueError, match="got '1', a lazy layer"), capture(model, "0"):
        pass


def test_a_replica_is_refused():
    model = net()
    replica = model.conv2._replicate_for_data_parallel()
    # as DataParallel does with its copies of the parameters
    replica.weight, replica.bias = model.conv2.weight.clone(), model.conv2.bias.clone()
    with (
        capture(model, "conv2"),
        pytest.raises(TypeError, match=r"pass the model inside DataParallel, its \.module"),
    ):
        replica(torch.ones(1, 3, 8, 8))


def test_the_callers_exception_is_the_one_reported():
    """A buffer that cannot be written back must hide nothing, and cost nothing else."""

    class Stubborn(torch.Tensor):
        def copy_(self, *_):
            raise RuntimeError("not to be written")

    model = net()
    model.register_buffer("odd", torch.ones(2).as_subclass(Stubborn))
    gradient = model.head.weight.grad

    def change(error=None):
        model.odd.data = model.odd.data + 1
        if error is not None:
            raise error

    with pytest.raises(RuntimeError, match="not to be written"), capture(model, "conv2"):
        change()
    with pytest.raises(BrokenError), capture(model, "conv2"):
        change(BrokenError())
    assert model.head.weight.grad is gradient


UNUSED = "'unused' was not called in the model's forward pass"


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(1, 1, 1)
        self.unused = nn.Conv2d(1, 1, 1)
        self.dead = nn.Conv2d(1, 1, 1)
        self.pair = nn.Identity()

    def forward(self, x):
        self.dead(x)
        self.pair((x, x))
        return self.used(x)


@pytest.mark.parametrize(
    ("name", "loader", "loss", "error", "message"),
    [
        (
            "unused",
            [torch.ones(1, 1, 2, 2)],
            None,
            RuntimeError,
            UNUSED,
        ),
        (
            "unused",
            [torch.ones(1, 1, 2, 2)],
            torch.sum,
            RuntimeError,
            UNUSED,
        ),
        ("dead", [torch.ones(1, 1, 2, 2)], torch.sum, RuntimeError, "does not depend on layer"),
        ("used", [torch.ones(1, 1, 2, 2)], lambda y: y, ValueError, "must return a scalar tensor"),
        ("used", [torch.ones(1, 1, 2, 2)], lambda y: 1.0, ValueError, "must return a scalar"),
        (
            "used",
            [torch.ones(1, 1, 2, 2)],
            lambda y: torch.ones(()),
            RuntimeError,
            "does not depend on",
        ),
        ("used", [], None, ValueError, "loader must give at least one batch; got none"),
        ("used", [()], None, TypeError, "loader must give tensors, .*; got an empty batch"),
        ("used", ["image"], None, TypeError, "loader must give tensors, .*; got str"),
        ("pair", [torch.ones(1, 1, 2, 2)], None, TypeError, "'pair' must take and return a tensor"),
    ],
)
def test_errors_of_run(name, loader, loss, error, message):
    with capture(Unused(), name) as tape, pytest.raises(error, match=message):
        tape.run(loader, loss)


def test_errors_of_the_tape():
    with capture(Unused(), "used") as tape, pytest.raises(RuntimeError, match="no inputs were rec"):
        _ = tape.inputs
    with pytest.raises(RuntimeError, match="run needs the capture block to be open"):
        tape.run([torch.ones(1, 1, 2, 2)])
    with capture(Unused(), "used") as tape:
        tape.run([torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 2)])
    with pytest.raises(RuntimeError, match="the inputs differ in shape and cannot be joined"):
        _ = tape.inputs


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_cuda():
    model = net().cuda()
    before, random = state(model), torch.cuda.get_rng_state()
    with capture(model, "conv2") as tape:
        model.train()
        tape.run(batches(), nn.CrossEntropyLoss())
    assert tape.inputs.device.type == tape.output_gradients.device.type == "cpu"
    assert_same(before, state(model))
    assert torch.equal(torch.cuda.get_rng_state(), random)
