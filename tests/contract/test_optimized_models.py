"""What an optimized model must answer exactly as its model does, whatever it is made of and however it is dressed.

A question takes a model and gives something that can be compared. A form is a way to make a model; a new one gets all
questions by one line.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune

import memomalloc
from child_process import run_python
from dynamic_models import served_share_between
from memomalloc.runtime.torch_versions import minor_version
from serving import assert_equal_bits, fully_served, learn

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit and dynamic quantization are deprecated

#: Calls after which a plan is armed, and methods of the model that it calls itself are known.
SETTLED = 10


class Net(torch.nn.Module):
    """A small model with what models have: a method besides ``forward``, a buffer, attributes, a submodule by a name
    that an optimized model would like to use.
    """

    size: int = 8

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
        self.head = torch.nn.Linear(8, 4)
        self.register_buffer("scale", torch.full((4,), 0.5))
        self.note = "mine"

    def forward(self, values: torch.Tensor, double: bool = False) -> torch.Tensor:
        """Compute it."""
        hidden = self.head(self.body(values)) * self.scale
        if double:
            return hidden * 2
        return hidden

    def describe(self, prefix: str = "") -> str:
        return prefix + self.note


def values(seed: int = 0) -> torch.Tensor:
    return torch.randn((2, 8), generator=torch.Generator().manual_seed(seed))


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def _compiled() -> torch.nn.Module:
    torch.compiler.reset()
    return torch.compile(net(), backend="eager")


def _compiled_in_place() -> torch.nn.Module:
    torch.compiler.reset()
    made = net()
    made.compile(backend="eager")
    return made


def _traced() -> torch.nn.Module:
    return torch.jit.trace(net(), (values(),))


def _peft() -> torch.nn.Module:
    import peft

    return peft.get_peft_model(net(), peft.LoraConfig(target_modules=["head"])).eval()


FORMS: dict[str, Callable[[], Any]] = {
    "plain": net,
    "sequential": lambda: net().body,
    "layer": lambda: net().head,
    "compiled": _compiled,
    "compiled_in_place": _compiled_in_place,
    "scripted": lambda: torch.jit.script(net()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(net())),
    "traced": _traced,
    "exported": lambda: torch.export.export(net(), (values(),)).module(),
    "graph": lambda: torch.fx.symbolic_trace(net(), concrete_args={"double": False}),
    "quantized": lambda: torch.ao.quantization.quantize_dynamic(net(), {torch.nn.Linear}),
    "parametrized": lambda: torch.nn.utils.parametrizations.weight_norm(net().head),
}
if importlib.util.find_spec("peft") is not None:
    FORMS["peft"] = _peft

DRESSES: dict[str, Callable[[Any], Any]] = {
    "optimized": memomalloc.optimize,
    "in_place": lambda model: memomalloc.optimize(model, inplace=True),
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=DRESSES)
def dress(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# --- Questions -----------------------------------------------------------------------------------------------------


def _class(model: Any) -> Any:
    kind = type(model)
    return kind.__name__, kind.__qualname__, kind.__module__, kind.__doc__, model.__class__.__mro__[1:]


def _forward(model: Any) -> Any:
    forward = inspect.getattr_static(type(model), "forward", None)
    return type(forward), getattr(forward, "__qualname__", None), getattr(type(model).forward, "__doc__", None)


def _signatures(model: Any) -> Any:
    functions = (type(model), type(model).__init__, model.forward, model.to, model.apply, model.requires_grad_, model)
    return [str(inspect.signature(function)) for function in functions]


def _annotations(model: Any) -> Any:
    return inspect.get_annotations(type(model)), getattr(model, "__annotations__", None)


def _methods(model: Any) -> Any:
    return model.describe("it is "), str(inspect.signature(model.describe)), inspect.getsource(model.describe)


def _source(model: Any) -> Any:
    return inspect.getsource(type(model)), inspect.getsourcefile(type(model))


def _names(model: Any) -> Any:
    own = [name for name, _ in model.named_modules()]
    return dir(model), repr(model), own, list(model.state_dict()), [name for name, _ in model.named_parameters()]


def _attributes(model: Any) -> Any:
    kept = {name: type(value) for name, value in vars(model).items() if "_compiled_call" not in name}
    kept.pop("__jit_ignored_attributes__", None)
    return kept, [hasattr(model, name) for name in ("note", "head", "scale", "nothing", "_orig_mod", "module")]


def _is_its_own_first_module(model: Any) -> Any:
    return next(iter(model.modules())) is model, model in set(model.modules())


def _is_called_as_itself(model: Any) -> Any:
    seen = []
    handle = model.register_forward_hook(lambda module, inputs, output: seen.append(module is model))
    model(values())
    handle.remove()
    return seen


def _training(model: Any) -> Any:
    answers = [model.training, model.train() is model, model.training, model.eval() is model, model.training]
    return answers, [module.training for module in model.modules()]


def _items(model: Any) -> Any:
    model[0] = torch.nn.Identity()
    return len(model), [type(item) for item in model], model[0](values()), model[1:](values()), model[1] in model


def _setting(model: Any) -> Any:
    model.note = "changed"
    model.added = torch.nn.Linear(4, 4)
    model.register_buffer("other", torch.zeros(2))
    answers = model.note, list(model.state_dict())
    del model.added, model.other
    return answers, list(model.state_dict()), model.note


def _state(model: Any) -> Any:
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()})
    return model(values())


def _double(model: Any) -> Any:
    return model.double() is model, next(model.parameters()).dtype, model(values().double())


def _pickled(model: Any) -> Any:
    made = pickle.loads(pickle.dumps(model))
    return _class(made), made(values())


def _saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    made = torch.load(file, weights_only=False)
    return _class(made), made(values())


def _script_saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.jit.save(model, file)
    file.seek(0)
    return torch.jit.load(file)(values())


def _copied(model: Any) -> Any:
    made, shallow = copy.deepcopy(model), copy.copy(model)
    shared = {id(tensor) for tensor in made.parameters()} & {id(tensor) for tensor in model.parameters()}
    return made.__class__.__name__, made(values()), len(shared), shallow.__class__.__name__, shallow(values())


def _scripted(model: Any) -> Any:
    return torch.jit.script(model)(values())


def _child_scripted(model: Any) -> Any:
    parent = torch.nn.Sequential(model)
    return torch.jit.script(parent)(values()), parent[0] is model


def _jit_traced(model: Any) -> Any:
    return torch.jit.trace(model, (values(),))(values(1))


def _exported(model: Any) -> Any:
    return torch.export.export(model, (values(),)).module()(values(1))


def _fx(model: Any) -> Any:
    traced = torch.fx.symbolic_trace(model, concrete_args={"double": False})
    return traced.code, traced(values())


def _fx_of_parent(model: Any) -> Any:
    traced = torch.fx.Tracer().trace(torch.nn.Sequential(model, torch.nn.ReLU()))
    return str(traced)


def _compile(model: Any) -> Any:
    torch.compiler.reset()
    with torch.no_grad():
        return torch.compile(model, backend="eager", fullgraph=True)(values())


def _compile_parent(model: Any) -> Any:
    torch.compiler.reset()
    with torch.no_grad():
        return torch.compile(torch.nn.Sequential(model), backend="eager", fullgraph=True)(values())


def _functional(model: Any) -> Any:
    return torch.func.functional_call(model, {name: t * 2 for name, t in model.named_parameters()}, (values(),))


def _replica(model: Any) -> Any:
    """As DataParallel makes them."""
    replica = model.__new__(type(model))
    replica.__dict__ = model.__dict__.copy()
    replica._parameters = {name: tensor * 0 for name, tensor in model._parameters.items()}
    return replica(values())


def _made_by_its_class(model: Any) -> Any:
    return model.__class__()(values()).shape, type(model)()(values()).shape


def _averaged(model: Any) -> Any:
    return torch.optim.swa_utils.AveragedModel(model)(values())


def _pruned(model: Any) -> Any:
    layer = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    torch.nn.utils.prune.l1_unstructured(layer, "weight", amount=0.5)
    return model(values()), list(model.state_dict())


def _weight_norm(model: Any) -> Any:
    torch.nn.utils.parametrizations.weight_norm(model)
    made = model(values()), type(model).__name__, list(model.state_dict())
    torch.nn.utils.parametrize.remove_parametrizations(model, "weight")
    return made, model(values()), type(model).__name__


def _quantized(model: Any) -> Any:
    made = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    return repr(made), made(values())


def _recompiled(model: Any) -> Any:
    for node in model.graph.nodes:
        if node.op == "output":
            with model.graph.inserting_before(node):
                node.args = (model.graph.call_function(torch.neg, (node.args[0],)),)
    model.recompile()
    return model.code, model(values())


def _gradients(model: Any) -> Any:
    model.train()
    model(values()).square().sum().backward()
    return [tensor.grad for tensor in model.parameters()]


def _errors(model: Any) -> Any:
    return model(torch.zeros(3, 5))


QUESTIONS: tuple[Callable[[Any], Any], ...] = (
    _annotations, _attributes, _averaged, _child_scripted, _class, _compile, _compile_parent, _copied, _double, _errors,
    _exported, _forward, _functional, _fx, _fx_of_parent, _gradients, _is_called_as_itself, _is_its_own_first_module,
    _items, _jit_traced, _made_by_its_class, _methods, _names, _pickled, _pruned, _quantized, _recompiled, _replica,
    _saved, _script_saved, _scripted, _setting, _signatures, _source, _state, _training, _weight_norm,
)  # fmt: skip


class _Raised:
    """Two are equal: how an error is worded depends on addresses, and on how deep a compiler looked."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Raised)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"raised {self.error!r}"


#: What cannot be answered as the model does, and why.
EXCEPTIONS = {
    ("compiled", "optimized", _compile): "torch.compile knows what it has compiled by its very class",
    ("compiled", "in_place", _compile): "torch.compile knows what it has compiled by its very class",
    ("compiled_in_place", "optimized", _is_called_as_itself): "what was compiled is the call of the object that was",
}
_TORCH = minor_version(torch.__version__)
if _TORCH < (2, 12):
    # Later releases refuse to compile what is scripted.
    _left_alone = "TorchScript is left alone by this torch.compile, which looks into the call of an optimized one"
    EXCEPTIONS |= {(form, dress, _compile): _left_alone for form in ("scripted", "traced") for dress in DRESSES}
if _TORCH == (2, 9):
    _hooks = "this torch.compile looks into the call of an optimized one, and refuses the hooks of what is exported"
    EXCEPTIONS |= {("exported", dress, _compile): _hooks for dress in DRESSES}
    _fails = "this torch.export fails at what torch.compile made, and exports an optimized one"
    EXCEPTIONS |= {("compiled", dress, _exported): _fails for dress in DRESSES}


def _answer(question: Callable[[Any], Any], model: Any) -> Any:
    """The answer, or what is raised instead: not every form of a model can answer everything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return question(model)
        except Exception as error:
            return _Raised(error)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        same_kind = type(one) is type(other) and len(one) == len(other)
        return same_kind and all(_equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__.strip("_"))
def test_it_answers_as_the_model(form: str, dress: str, question: Callable[[Any], Any]) -> None:
    if (form, dress, question) in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[form, dress, question])
    for calls in (0, SETTLED) if form == "plain" else (SETTLED,):
        plain, model = FORMS[form](), DRESSES[dress](FORMS[form]())
        for _ in range(calls):
            model(values())
            plain(values())
        expected, actual = _answer(question, plain), _answer(question, model)
        assert _equal(expected, actual), f"after {calls} calls\n{expected}\n{actual}"


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.__name__.strip("_"))
def test_some_form_has_an_answer(question: Callable[[Any], Any]) -> None:
    """Guards the test above: a question that every form refuses says nothing."""
    for form in FORMS.values():
        if not isinstance(_answer(question, form()), _Raised):
            return
    assert question is _errors


# --- What is more --------------------------------------------------------------------------------------------------


def test_calls_are_served_and_equal(form: str, dress: str) -> None:
    plain, model = FORMS[form](), DRESSES[dress](FORMS[form]())
    with torch.no_grad():
        for _ in range(3):
            plain(values())
        learn_any(model)
        held = []
        before = memomalloc.stats(model).runs_replayed
        for seed in range(20):
            held.append((model(values(seed)), plain(values(seed))))
        for actual, expected in held:
            assert_equal_bits(actual, expected)
        assert memomalloc.stats(model).runs_replayed - before >= 19
        del held, actual, expected
        for seed in range(10):  # a small model, so one output that is held and finds its place taken is a large share
            model(values(seed))
        settled = memomalloc.stats(model)
        for seed in range(10):
            model(values(seed))
        assert served_share_between(settled, memomalloc.stats(model)) >= 0.95


def learn_any(model: Any) -> None:
    """Also where the model has a ``stats`` of its own."""
    for _ in range(12):
        model(values())
    assert memomalloc.stats(model).runs_replayed > 0


def test_it_is_an_instance_of_both(form: str, dress: str) -> None:
    made = FORMS[form]()
    kind = type(made)
    model = DRESSES[dress](made)
    assert isinstance(model, kind)
    assert isinstance(model, memomalloc.OptimizedModule)
    assert inspect.getattr_static(type(model), "forward") is inspect.getattr_static(kind, "forward")
    assert not isinstance(FORMS[form](), memomalloc.OptimizedModule)


def test_a_compiled_model_has_the_truth_of_its_module(dress: str) -> None:
    """torch 2.11 asks for it where one is compiled inside another, and raises at a compiled one of its own."""
    assert bool(DRESSES[dress](_compiled()))
    assert not bool(DRESSES[dress](torch.compile(torch.nn.Sequential(), backend="eager")))


@pytest.mark.parametrize("name", DRESSES)
def test_what_is_saved_is_loaded_where_memomalloc_is_not_installed(name: str, tmp_path: Any) -> None:
    model = DRESSES[name](torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval())
    learn(model, values())
    torch.save(model, tmp_path / "model.pt")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps([model, model[0]]))
    child = run_python(
        f"""
        import pickle, sys, torch
        sys.modules["memomalloc"] = None
        model = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
        other, first = pickle.loads(open({str(tmp_path / "model.pickle")!r}, "rb").read())
        assert type(model) is type(other) is torch.nn.Sequential and other[0] is first
        print(torch.equal(model(torch.ones(2, 8)), other(torch.ones(2, 8))))
    """,
        timeout_s=280,
    )
    assert child.stdout == "True\n", child.stderr


@pytest.mark.parametrize("name", DRESSES)
def test_a_model_that_refers_to_itself_is_copied_whole(name: str) -> None:
    made = net()
    model = DRESSES[name](made)
    model.head.parents = [model]
    learn(model, values())
    twin = copy.deepcopy(model)
    assert twin.head.parents[0] is twin
    assert twin is not model
    with fully_served(twin, runs=1):
        assert_equal_bits(twin(values(1)), model(values(1)))
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.head.parents[0] is loaded


class Counting(Net):
    """Has what an optimized model offers, but of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.plans = ["one", "two"]
        self.traces = torch.nn.Linear(8, 8)
        self.register_buffer("deviations", torch.ones(1))

    def stats(self) -> str:
        return "my own"


@pytest.mark.parametrize("name", DRESSES)
def test_attributes_of_the_models_own_are_found_first(name: str) -> None:
    model = DRESSES[name](Counting().eval())
    for _ in range(8):
        model(values())
    assert (model.stats(), model.plans) == ("my own", ["one", "two"])
    assert isinstance(model.traces, torch.nn.Linear)
    assert model.deviations.shape == (1,)
    assert memomalloc.stats(model).runs_replayed > 0
    assert len(memomalloc.plans(model)) == len(memomalloc.traces(model)) == 1
    assert memomalloc.deviations(model) == ()
    file = io.BytesIO()
    assert memomalloc.save_plans(model, file) == 1
    memomalloc.forget(model)
    assert memomalloc.plans(model) == ()
    file.seek(0)
    assert memomalloc.load_plans(model, file, strict=True) == 1
    del model.plans
    assert model.plans == ()
    model.plans = torch.nn.Linear(8, 8)  # what comes later, too
    assert isinstance(model.plans, torch.nn.Linear)
