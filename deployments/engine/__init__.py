"""vLLM inside a Serve replica, reached over one streaming handle method."""
