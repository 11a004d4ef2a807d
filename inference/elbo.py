"""The evidence lower bound with enumerated alpha and, where it exists, the closed-form Kullback-Leibler term.

    sum_alpha r(alpha) [ E_q log p(s | z, v, alpha) - KL(q(z | s, v, alpha) || p(z | v, alpha)) ] - KL(r || p(alpha))

Pyro's `TraceEnum_ELBO` replaces the inner KL by its value at the one z that was drawn. The bound has the same
mean either way; the closed form takes that noise out of the gradient of the encoder.
"""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceEnum_ELBO
from pyro.infer.enum import get_importance_trace


class AnalyticKLTraceEnumELBO(TraceEnum_ELBO):
    """`TraceEnum_ELBO` that replaces log q(z) - log p(z) by KL(q || p) at every site where torch knows it.

    The guide must sample the discrete sites before the continuous ones that depend on them, so that the KL of
    a site holds at every enumerated value. Sites whose KL has no closed form keep their Monte Carlo term.
    """

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        model_trace, guide_trace = get_importance_trace(
            "flat", self.max_plate_nesting, model, guide, args, kwargs
        )
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name in model_trace.nodes:
                _put_closed_form(site, model_trace.nodes[name])
        guide_trace.pack_tensors()
        model_trace.pack_tensors(guide_trace.plate_to_symbol)
        return model_trace, guide_trace


def _put_closed_form(guide_site: dict[str, Any], model_site: dict[str, Any]) -> None:
    """Let the pair of sites contribute -KL(q || p) to the bound, if it is known in closed form."""
    if poutine.util.site_is_subsample(guide_site) or guide_site["fn"].has_enumerate_support:
        return
    try:
        divergence = torch.distributions.kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return
    for site, log_prob in ((guide_site, divergence), (model_site, torch.zeros_like(divergence))):
        site["unscaled_log_prob"] = log_prob
        site["log_prob"] = scale_and_mask(log_prob, site["scale"], site["mask"])
        site["log_prob_sum"] = site["log_prob"].sum()
