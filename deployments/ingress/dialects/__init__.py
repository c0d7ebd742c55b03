"""One filter per wire dialect: engine bytes in, gated bytes out. Sans-I/O."""
