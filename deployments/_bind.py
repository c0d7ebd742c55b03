"""Serve's untyped builder API, in one place.

`DeploymentHandle[T]` checks nothing (its `__getattr__` answers any name) and `serve.deployment` is untyped; this module
and `clients.py` are the only ones that know.
"""

from collections.abc import Callable
from typing import Any, cast

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

Handle = DeploymentHandle[Any]

_deployment = cast(Callable[..., Any], serve.deployment)  # pyright: ignore[reportUnknownMemberType]
_ingress = cast(Callable[..., Any], serve.ingress)  # pyright: ignore[reportUnknownMemberType]

__all__ = ["Application", "Handle", "bind"]


def bind(cls: type[object], *args: object, ingress: bool = False, **options: object) -> Application:
    """A node of the graph: `cls`, constructed on its replica with `args`, under Serve's deployment `options`.

    `ingress` marks the class that supplies its ASGI app late, in `__serve_build_asgi_app__`.
    """
    return cast(Application, _deployment(_ingress()(cls) if ingress else cls, **options).bind(*args))
