"""Two tiny trained gpt-oss checkpoints that let the whole house run on a laptop; demonstrations, not models."""
