"""An engine built by Ray Serve LLM: workers on several nodes, adapters, data parallel ranks, behind our contract."""
