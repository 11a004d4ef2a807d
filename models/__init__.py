"""Generative models p(s, z, alpha | v) of clean speech, and models of the noise that is added to it.

Parameters live in the modules themselves, never in Pyro's global parameter store: the setting below makes
that hold also for parameters that a user assigns to a `PyroModule` of their own.
"""

import pyro

pyro.settings.set(module_local_params=True)
