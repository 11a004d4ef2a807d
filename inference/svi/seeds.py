"""Seeds of training steps."""


def step_seed(seed: int, step: int) -> int:
    """The seed of a step, within the 63 bits that every generator takes."""
    return (seed * 1_000_003 + step) % 2**63
