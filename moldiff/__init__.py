"""moldiff: an E(3)-equivariant diffusion model for molecules in 3D.

``moldiff.load("qm9").generate(100, seed=0)`` yields records with RDKit molecules; ``moldiff.evaluate(mols)`` judges any.
"""

__version__ = "0.1.0"
__all__ = ["Generator", "__version__", "diverse", "evaluate", "load"]


def __getattr__(name: str):
    """Import torch only when it is needed, so that ``import moldiff`` and ``moldiff --help`` are instant."""
    if name in ("Generator", "load"):
        from moldiff import generation

        return getattr(generation, name)
    if name == "evaluate":
        from moldiff.report import evaluate

        return evaluate
    if name == "diverse":
        from moldiff.diversity import diverse

        return diverse
    raise AttributeError(f"module 'moldiff' has no attribute {name!r}")
