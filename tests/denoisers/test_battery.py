"""One battery that every network must pass, in double precision and with random weights, through ``Model.denoise``."""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from e3nn import o3
from torch import Tensor

from moldiff.conditions import Conditions
from moldiff.config import Config, NetworkConfig
from moldiff.denoisers import compile_layers
from moldiff.denoisers.transformer import Transformer
from moldiff.model import KNOWN_LOGIT, Model
from moldiff.model_file import DataInfo
from moldiff.molecule import Molecules, Prediction
from moldiff.schedules import NoiseLevel

THRESHOLD = 1e-10  # of the largest number in the answer
NETWORKS = {
    "transformer": {"width": 16, "layers": 2, "vectors": 4, "pair_width": 8, "heads": 2, "radial": 4, "walks": 3},
    "egnn": {"width": 16, "layers": 2},
    "tensor_product": {"width": 16, "layers": 2, "radial": 4},
}
SIZES = [7, 7, 7]


@dataclass(frozen=True)
class Request:
    """Everything that ``Model.denoise`` is asked."""

    noisy: Molecules
    level: NoiseLevel
    conditions: Conditions
    previous: Prediction | None

    def replace(self, **fields) -> "Request":
        return dataclasses.replace(self, **fields)

    def moved(self, matrix: Tensor) -> "Request":
        """Positions under an orthogonal matrix."""
        previous = self.previous and dataclasses.replace(self.previous, pos=self.previous.pos @ matrix.T)
        return self.replace(noisy=self.noisy.rotate(matrix), previous=previous)

    def on_atoms(self, change: Callable[[Tensor], Tensor]) -> "Request":
        """``change`` applied to the atom axes of all fields (axis 1, and axis 2 of pairs)."""
        pair = lambda x: change(change(x).transpose(1, 2)).transpose(1, 2)  # noqa: E731
        m, level, p = self.noisy, self.level, self.previous
        return self.replace(
            noisy=Molecules(change(m.mask), change(m.pos), change(m.atom), pair(m.bond)),
            level=NoiseLevel(change(level.pos), change(level.atom), pair(level.bond)),
            previous=p and Prediction(change(p.pos), change(p.atom_logits), pair(p.bond_logits)),
        )

    def select(self, index: slice) -> "Request":
        fields = (getattr(self, f.name) for f in dataclasses.fields(self))
        return Request(*(x and x.select(index) for x in fields))


@pytest.fixture(params=NETWORKS)
def model(request, info, float64) -> Model:
    return with_random_weights(request.param, info)


@cache
def with_random_weights(kind: str, info: DataInfo) -> Model:
    """Nothing is zero, so that every path counts."""
    model = Model(Config(network=NetworkConfig(kind, NETWORKS[kind])), info)
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        width = p.shape[-1] if p.ndim > 1 else 25
        p.data += 0.5 * width**-0.5 * torch.randn(p.shape, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.fixture
def request_(random_molecules, info, float64) -> Request:
    """Molecule 0 is free, 1 has two fixed atoms, 2 has known positions only; all have a previous estimate."""
    molecules = random_molecules(SIZES, seed=1)
    b, n = molecules.mask.shape
    free = NoiseLevel.free(molecules, torch.tensor([0.9, 0.3, 2.0]))
    fixed = torch.zeros(b, n, dtype=torch.bool)
    fixed[1, :2] = True
    level = NoiseLevel(
        pos=free.pos.masked_fill(fixed | (torch.arange(b) == 2)[:, None], 0),
        atom=free.atom.masked_fill(fixed, 0),
        bond=free.bond.masked_fill(fixed[:, :, None] & fixed[:, None], 0),
    )
    generator = torch.Generator().manual_seed(2)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    logits = normal(b, n, n, 4)
    tokens, properties = len(info.vocabulary), len(info.properties)
    heavy, composition = torch.tensor([4, 3, 0]), torch.tensor([[3, 2, 1, 1], [0, 0, 0, 0], [4, 2, 0, 1]])
    return Request(
        noisy=molecules.centre(level.fixed_pos),
        level=level,
        conditions=Conditions(
            normal(b, properties), torch.tensor([[True, False], [True, True], [False, False]]), heavy, composition
        ),
        previous=Prediction(normal(b, n, 3), normal(b, n, tokens), logits + logits.transpose(1, 2)),
    )


def denoise(model: Model, r: Request) -> Prediction:
    return model.denoise(r.noisy, r.level, r.conditions, r.previous)


def assert_same(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert (one - other).abs().max() <= THRESHOLD * max(1.0, float(one.abs().max()))


def assert_same_prediction(one: Prediction, other: Prediction) -> None:
    for field in dataclasses.fields(Prediction):
        assert_same(getattr(one, field.name), getattr(other, field.name))


def changes(model: Model, one: Request, other: Request) -> bool:
    """Whether the answer differs in every field by more than rounding."""
    a, b = denoise(model, one), denoise(model, other)
    differences = [(getattr(a, f.name) - getattr(b, f.name)).abs().max() for f in dataclasses.fields(Prediction)]
    return all(d > 1e-6 for d in differences)


def changed(model: Model, one: Request, other: Request) -> list[bool]:
    """Whether the answer differs at all, and then in every field by more than rounding, for each molecule."""
    a, b = denoise(model, one), denoise(model, other)
    fields = [
        (getattr(a, f.name) - getattr(b, f.name)).abs().flatten(1).amax(1) for f in dataclasses.fields(Prediction)
    ]
    differences = torch.stack(fields, 1)
    assert torch.equal((differences > 0).any(1), (differences > 1e-6).all(1))
    return (differences > 0).any(1).tolist()


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
@pytest.mark.parametrize("self_conditioned", [True, False], ids=["with_previous", "without_previous"])
def test_orthogonal_matrices(model, request_, sign, self_conditioned):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        matrix = sign * o3.rand_matrix()
    if not self_conditioned:
        request_ = request_.replace(previous=None)
    original = denoise(model, request_)
    moved = denoise(model, request_.moved(matrix))
    assert_same_prediction(moved, dataclasses.replace(original, pos=original.pos @ matrix.T))


def test_translation_disappears_in_centring(model, request_):
    noisy = request_.noisy
    shifted = noisy.replace(pos=noisy.pos + torch.tensor([5.0, -3.0, 11.0]))
    centred = request_.replace(noisy=shifted.centre(request_.level.fixed_pos))
    assert_same_prediction(denoise(model, centred), denoise(model, request_))


def test_centre_stays_where_nothing_is_fixed(model, request_):
    assert_same(denoise(model, request_).pos[0].mean(0), torch.zeros(3))


def test_permutation(model, request_):
    order = torch.randperm(SIZES[0], generator=torch.Generator().manual_seed(0))
    permuted = lambda r: r.on_atoms(lambda x: x[:, order])  # noqa: E731
    answer = request_.replace(previous=denoise(model, request_))
    assert_same_prediction(denoise(model, permuted(request_)), permuted(answer).previous)


def test_padding_changes_nothing(model, request_):
    n, wide = SIZES[0], SIZES[0] + 4
    extend = lambda x: torch.cat([x, x.new_zeros(x.shape[0], wide - n, *x.shape[2:])], 1)  # noqa: E731
    answer = denoise(model, request_.on_atoms(extend))
    assert (answer.pos[:, n:] == 0).all()
    real = Prediction(answer.pos[:, :n], answer.atom_logits[:, :n], answer.bond_logits[:, :n, :n])
    assert_same_prediction(real, denoise(model, request_))


def test_batch_is_singles(model, request_):
    batch = denoise(model, request_)
    for k in range(len(request_.noisy)):
        one = slice(k, k + 1)
        assert_same_prediction(denoise(model, request_.select(one)), batch.select(one))


def test_layers_are_compiled_in_place(model, request_, monkeypatch):
    """All of them and nothing outside; names of weights and the model's answer stay."""
    kind, used = model.config.network.kind, []

    def compiled(function, **options):  # the compiler itself takes minutes
        return lambda *inputs: used.append(function.__self__) or function(*inputs)

    before, names = denoise(model, request_), list(model.network.state_dict())
    model = copy.deepcopy(model)
    monkeypatch.setattr(torch, "compile", compiled)
    compile_layers(model.network)
    prefix = "blocks" if kind == "transformer" else "layers"
    found = {name: m for name, m in model.network.named_modules() if m._compiled_call_impl is not None}
    assert list(found) == [f"{prefix}.{k}" for k in range(NETWORKS[kind]["layers"])]
    assert list(model.network.state_dict()) == names
    assert_same_prediction(denoise(model, request_), before)
    assert [m for m in used if m in found.values()] == list(found.values())


def test_bond_logits_are_symmetric(model, request_):
    logits = denoise(model, request_).bond_logits
    assert_same(logits, logits.transpose(1, 2))


def test_known_comes_back(model, request_):
    answer = denoise(model, request_)
    noisy, level = request_.noisy, request_.level
    assert torch.equal(answer.pos[level.pos == 0], noisy.pos[level.pos == 0])
    assert not torch.equal(answer.pos[0], noisy.pos[0])
    for logits, token, sigma in [
        (answer.atom_logits, noisy.atom, level.atom),
        (answer.bond_logits, noisy.bond, level.bond),
    ]:
        probs = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
        assert (probs[sigma == 0] > 1 - 1e-12).all()
        assert (logits[sigma > 0] != KNOWN_LOGIT).all()


def test_previous_estimate_counts_where_seen(model, request_):
    blind = request_.replace(previous=None)
    assert changes(model, request_, blind)
    nobody = torch.zeros(len(request_.noisy), dtype=torch.bool)
    unseen = model.denoise(request_.noisy, request_.level, request_.conditions, request_.previous, nobody)
    assert_same_prediction(unseen, denoise(model, blind))


def test_conditions_count_where_given(model, request_):
    conditions = request_.conditions
    value, given, heavy, composition = (getattr(conditions, f.name) for f in dataclasses.fields(conditions))

    def told(**fields) -> Request:
        return request_.replace(conditions=dataclasses.replace(conditions, **fields))

    assert changes(model, request_, told(value=value + given))
    for one_more in torch.eye(4, dtype=torch.long):  # of each element
        assert changes(model, request_, told(composition=composition + one_more))
    assert changes(model, request_, told(heavy=heavy + 1))
    assert_same_prediction(denoise(model, told(value=value + 1.0 * ~given)), denoise(model, request_))
    for dropped in (
        conditions.without_properties(),
        conditions.without_composition(torch.ones(3) > 0),
        dataclasses.replace(conditions, heavy=0 * heavy),
    ):
        assert changes(model, request_, request_.replace(conditions=dropped))
    nothing = told(given=torch.zeros_like(given), heavy=0 * heavy, composition=0 * composition)
    none = model.denoise(request_.noisy, request_.level, None, request_.previous)
    assert_same_prediction(denoise(model, nothing), none)


def test_every_input_counts(model, request_):
    noisy, level = request_.noisy, request_.level
    bond = noisy.bond.clone()
    bond[:, 0, 1] = bond[:, 1, 0] = (bond[:, 0, 1] + 1) % 4
    assert changes(model, request_, request_.replace(noisy=noisy.replace(bond=bond)))
    assert changes(model, request_, request_.replace(noisy=noisy.replace(atom=(noisy.atom + 1) % 5)))
    assert changes(model, request_, request_.replace(noisy=noisy.replace(pos=1.1 * noisy.pos)))
    assert changes(model, request_, request_.replace(level=level.scaled(1.5)))


@pytest.mark.parametrize("coincident", [False, True], ids=["apart", "coincident_atoms"])
def test_gradients_are_finite(model, request_, coincident):
    noisy = request_.noisy
    pos = noisy.pos.clone()
    if coincident:
        pos[:, 1] = pos[:, 0]
    pos.requires_grad_()
    model = copy.deepcopy(model).requires_grad_(True)
    answer = denoise(model, request_.replace(noisy=noisy.replace(pos=pos)))
    (answer.pos.square().sum() + answer.atom_logits.sum() + answer.bond_logits.square().sum()).backward()
    assert pos.grad.isfinite().all()
    for name, p in model.named_parameters():
        assert p.grad is not None, f"{name}: not used"
        assert p.grad.isfinite().all(), name


def test_single_atom(model, request_, random_molecules):
    """No pair at all, alone and beside others."""
    one = random_molecules([1])
    answer = model.denoise(one.centre(), NoiseLevel.free(one, torch.tensor([1.0])))
    assert answer.pos.abs().max() == 0
    assert answer.atom_logits.isfinite().all()


@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "reflection"])
def test_transformer_state_in_the_language_of_e3nn(info, request_, float64, sign):
    """Its scalars are 0e and its vectors 1o, inside and out."""
    model, options = with_random_weights("transformer", info), NETWORKS["transformer"]
    inside = o3.Irreps(f"{options['width']}x0e + {options['vectors']}x1o")
    outside = o3.Irreps(f"1o + {len(info.vocabulary)}x0e")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        matrix = sign * o3.rand_matrix()
    before, after = (states(model, r) for r in (request_, request_.moved(matrix)))
    assert_same(after[0], before[0] @ inside.D_from_matrix(matrix).T)
    assert_same(after[1], before[1] @ outside.D_from_matrix(matrix).T)


def states(model: Model, r: Request) -> tuple[Tensor, Tensor]:
    """Scalars and vectors after the last block, and positions and atom logits of the answer, in e3nn's layout."""
    kept = []
    network: Transformer = model.network
    handle = network.blocks[-1].register_forward_hook(lambda *args: kept.append(args[2]))
    pos, atom_logits, _ = network(model.precondition(r.noisy, r.level, r.conditions, r.previous))
    handle.remove()
    x, v, _ = kept[0]
    return torch.cat([x, v.transpose(2, 3).flatten(2)], -1), torch.cat([pos, atom_logits], -1)
