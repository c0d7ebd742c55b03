"""`gatehouse-run`: executes one call under one permit. A library, a command line and an MCP server."""
