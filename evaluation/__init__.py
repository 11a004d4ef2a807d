"""Measuring and showing: metrics, evaluations, their comparison, and figures."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avse.evaluation.comparison import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    """Functions that are imported when they are first used, since they need pandas."""
    if name == "compare":
        from avse.evaluation.comparison import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
