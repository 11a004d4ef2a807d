"""Importing and using the package leaves the process as it was."""

import subprocess
import sys

import pytest

PROGRAM = """
import random, warnings
import numpy as np, pyro, scipy.signal, torch  # which change the filters of warnings

torch.manual_seed(5); np.random.seed(5); random.seed(5)

def state():
    return {
        "settings of Pyro": pyro.settings.get(),
        "parameter store": list(pyro.get_param_store()),
        "generator of torch": torch.get_rng_state().tolist(),
        "generator of NumPy": str(np.random.get_state()[1:]),
        "generator of Python": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "errors of NumPy": np.geterr(),
        "print options": str(np.get_printoptions()),
        "handlers of Pyro": len(pyro.poutine.runtime._PYRO_STACK),
        "filters of warnings": [str(each) for each in warnings.filters],
        "matrix products": torch.get_float32_matmul_precision(),
        "validation": torch.distributions.Distribution._validate_args,
    }

before = state()
{body}
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
"""

USES = {
    "import and enhance": """import avse, avse.evaluation.benchmark
x = 0.1 * np.random.default_rng(0).standard_normal(4000)
for name, algorithm in (("a-vae", "mcem"), ("min-vae-v2", "vem"), ("vae-mm", "auto")):
    video = None if name == "a-vae" else np.zeros((8, 67, 67), np.uint8)
    avse.enhance(x, 16000, model=avse.load(name), algorithm=algorithm, video=video, fps=30)
from dataclasses import replace
from avse.inference.component_density import traced
from avse.inference.presets import default_vem
x = 0.1 * np.random.default_rng(0).standard_normal(2000)
vem = replace(default_vem(), conditioning=traced, iterations=1)
avse.enhance(x, 16000, model=avse.load("a-vae").requires_grad_(), algorithm=vem)""",
    "import of training": """import lightning  # which changes the filters of warnings
before = state()
import avse.inference.svi.training""",
    "MCMC of Pyro": """import avse
from avse.inference.mcmc.pyro_mcmc import AlternatingSampler, JointSampler, PyroMCMC
from avse.inference.presets import default_mcem
from avse.models.bayesian_nmf import GammaNMF
x = 0.1 * np.random.default_rng(0).standard_normal((2000, 2))
nuts = JointSampler(options={"max_tree_depth": 1})
for sampler, prior in ((nuts, None), (nuts, GammaNMF.around), (AlternatingSampler(), GammaNMF.around)):
    mcmc = PyroMCMC(default_mcem(), sampler, prior, chains=1, draws=1, warmup=1)
    avse.enhance(x, 16000, model=avse.load("a-vae").requires_grad_(), algorithm=mcmc)""",
}


@pytest.mark.parametrize(
    "use", ["import and enhance", *(pytest.param(use, marks=pytest.mark.slow) for use in list(USES)[1:])]
)
def test_nothing_global_changes(use: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{body}", USES[use])],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_import_loading_and_traces_stay_light() -> None:
    """Figures, training and files of lips import what takes seconds when they are asked for.

    `torch.broadcast_shapes` imports sympy, which takes seconds and changes the filters of warnings: traces do
    without it.
    """
    program = """
import sys
import avse, avse.cli.app, avse.zoo.pair
heavy = {"librosa", "numba", "sklearn", "matplotlib", "lightning", "torchmetrics", "h5py"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
import torch
from avse.models.a_vae import AVAE, StandardNormal
from avse.models.base import TracedSpeech
TracedSpeech(AVAE(StandardNormal(2), torch.nn.Linear(2, 3)))(torch.zeros(4, 2))
assert "sympy" not in sys.modules, "a trace imports sympy"
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
