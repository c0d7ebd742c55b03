"""What every part of a bundle's grammar is made of: strict models, classes, and the one error."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from deployments.gate.tables import Base, Env

Class = Annotated[str, Field(pattern=r"^[A-Z0-9]+(\|[A-Z0-9]+)?$")]


class Strict(BaseModel):
    """Frozen, without coercion, refusing fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BundleError(Exception):
    """The bundle may not be used; the text lists why."""


@dataclass(frozen=True, slots=True)
class ClassOf:
    """A class that may differ between non-production and production."""

    nonprod: Base
    prod: Base

    def at(self, env: Env) -> Base:
        """The base class there."""
        return self.prod if env is Env.PROD else self.nonprod


def class_of(text: str) -> ClassOf:
    """`R2`, or `R2|R3` for non-production and production; the second may not be the lower one."""
    try:
        found = [Base(part) for part in text.split("|")]
    except ValueError:
        raise BundleError(f"'{text}' is not a class") from None
    result = ClassOf(found[0], found[-1])
    order = (Base.R0, Base.R1, Base.R2, Base.UNKNOWN, Base.OPAQUE, Base.R3, Base.FORBIDDEN)
    if order.index(result.prod) < order.index(result.nonprod):
        raise BundleError(f"'{text}' is milder in production")
    return result
