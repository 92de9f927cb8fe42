"""What other implementations make of fixed features: `python tests/evaluation/golden/make.py` writes metrics.json.

Needs torch-fidelity 0.4.0 (with torchvision), prdc 0.2, vendi-score 0.0.3 and scikit-learn, which the suite does not.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch_fidelity
from prdc import compute_prdc
from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc
from vendi_score import vendi


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """120 rows of 16 numbers on each side, the second wider and moved."""
    generator = torch.Generator().manual_seed(7)
    real, fake = (torch.randn(120, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    return real, 1.3 * fake + 0.4


def main() -> None:
    """Write metrics.json beside this file."""
    real, fake = features()
    statistics = [metric_fid.fid_features_to_statistics(rows) for rows in (real, fake)]
    kernels = [
        metric_kid.kernel_poly(x.numpy(), y.numpy(), kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None,
                               kid_kernel_poly_coef0=1)
        for x, y in ((real, real), (real, fake), (fake, fake))
    ]  # fmt: skip
    gaussian = [
        metric_kid.kernel_rbf(x.numpy(), y.numpy(), kid_kernel_rbf_sigma=10)
        for x, y in ((real, real), (real, fake), (fake, fake))
    ]
    precision, recall = metric_prc.calculate_precision_recall_full(fake, real, 5)
    unit = torch.nn.functional.normalize(fake, dim=1).numpy()
    found = {
        "made with": {"torch-fidelity": torch_fidelity.__version__, "prdc": "0.2", "vendi-score": "0.0.3"},
        "fid": metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"],
        "kid of pairs": float(metric_kid.mmd2(*kernels, mmd_est="u-statistic")),
        "kid of strangers": float(metric_kid.mmd2(*kernels, mmd_est="unbiased")),
        "mmd of pairs, gaussian": float(metric_kid.mmd2(*gaussian, mmd_est="u-statistic")),
        "inception score": metric_isc.isc_features_to_metric(fake, 1, False, 0)["inception_score_mean"],
        "precision": precision,
        "recall": recall,
        "prdc": {name: float(value) for name, value in compute_prdc(real.numpy(), fake.numpy(), nearest_k=5).items()},
        "vendi": float(np.exp(vendi.entropy_q(np.linalg.eigvalsh(unit @ unit.T / len(unit)), q=1))),
    }
    text = json.dumps(found, indent=1) + "\n"
    Path(__file__).with_name("metrics.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
