"""The plugin of vLLM, which vLLM loads in each of its processes: it names the engine, and imports next to nothing."""

BACKEND = "breadcrumb"


def register() -> None:
    """Register the engine of vllm_engine.py with vLLM; does nothing if it is registered."""
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        module = "client.live.serving.vllm_engine"
        WeightTransferEngineFactory.register_engine(BACKEND, module, "DeltaWeightTransferEngine")
