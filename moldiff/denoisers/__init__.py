"""Networks behind one contract: ``network(NetworkInput) -> (x0 positions, atom logits, bond logits)``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import RLock

import torch
from torch import nn

from moldiff.config import ConfigError, NetworkConfig
from moldiff.denoisers.layers import Sizes
from moldiff.errors import RequestError


def build_network(config: NetworkConfig, sizes: Sizes) -> nn.Module:
    """The network that a configuration names; imports only that one (e3nn and torch-geometric are slow to load)."""
    if config.kind not in _BUILDERS:
        raise ConfigError(f"network.kind = {config.kind!r}: there are {', '.join(_BUILDERS)}")
    with options_of(config.kind):
        return _BUILDERS[config.kind](config.options, sizes)


@contextmanager
def options_of(kind: str) -> Iterator[None]:
    """Whatever a network's own configuration does not know or cannot build is a :class:`ConfigError`."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ConfigError(f"network.options for {kind}: {error}") from error


def compile_layers(network: nn.Module) -> None:
    """By torch.compile, each layer for itself: those of a list share their code, so that one compilation serves all.

    They are few, but more than torch allows by default before it goes on without: with and without gradients, in the first
    layer and later ones, for small and large batches.
    """
    torch._dynamo.config.recompile_limit = 64
    _keep_tqdm_off_the_system()
    for child in network.children():
        if isinstance(child, nn.ModuleList):
            for layer in child:
                layer.compile(dynamic=True)
        else:
            compile_layers(child)


def _keep_tqdm_off_the_system() -> None:
    """torch.compile shows its progress by tqdm, which takes a semaphore of the system; workers that are ended would leave it."""
    with suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(RLock())


def check_compiler() -> None:
    """Raises RequestError where torch.compile does not work, mostly for want of a C++ compiler."""
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1))
    except Exception as error:  # of many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RequestError(
            f"--compile: torch.compile does not work here ({reason}); install a C++ compiler such as g++, or leave it out"
        ) from error


def _transformer(options: dict[str, int], sizes: Sizes) -> nn.Module:
    from moldiff.denoisers.transformer import Transformer, TransformerConfig

    return Transformer(TransformerConfig(**options), sizes)


def _egnn(options: dict[str, int], sizes: Sizes) -> nn.Module:
    from moldiff.denoisers.egnn import EGNN, EGNNConfig

    return EGNN(EGNNConfig(**options), sizes)


def _tensor_product(options: dict[str, int], sizes: Sizes) -> nn.Module:
    from moldiff.denoisers.tensor_product import TensorProductConfig, TensorProductNetwork

    return TensorProductNetwork(TensorProductConfig(**options), sizes)


_BUILDERS: dict[str, Callable[[dict[str, int], Sizes], nn.Module]] = {
    "transformer": _transformer,
    "egnn": _egnn,
    "tensor_product": _tensor_product,
}
