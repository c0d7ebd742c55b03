"""Configurations for the clients people use. Pure: values in, file contents out."""
