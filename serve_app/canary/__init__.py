"""A release of image, Ray or vLLM in steps: drives KubeRay's incremental upgrade, and holds or goes back by itself."""
