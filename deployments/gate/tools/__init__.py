"""Readers of tool calls other than programs: one module per adapter, each from a call's arguments to findings."""
