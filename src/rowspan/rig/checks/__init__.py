"""One file per check: a module with a `CHECK`. Adding a check is adding a file; `all_checks` finds it."""

from __future__ import annotations

import importlib
import pkgutil

from rowspan.rig.check import Check


def all_checks() -> list[Check]:
    """Every check of this package, by id."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    checks: list[Check] = [importlib.import_module(f"{__name__}.{name}").CHECK for name in names]
    return sorted(checks, key=lambda check: check.id)
