"""Faults of the native kernels."""

from tests.faults.catalogue import fault


@fault("C1a", "critical", "the native scan under a default dtype of float64 gives the logits of float32")
def default_float64():
    import torch

    import zoo

    model = zoo.create("mamba_nano")
    ids = torch.arange(64)[None]
    with torch.no_grad():
        logits = model(ids).logits
        torch.set_default_dtype(torch.float64)
        apart = (model(ids).logits - logits).abs().max().item()
    return f"logits differ by {apart:.3g}" if apart else None
