"""`nuriwake settings`."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from nuriwake.cli.options import NO_SETTINGS, SettingsFields, settings_changes


def settings(
    run: Path,
    *,
    settings: Path | None = None,
    fields: Annotated[SettingsFields, Parameter(name="*")] = NO_SETTINGS,  # pyright: ignore[reportInvalidTypeForm]
) -> None:
    """Say what a bundle is and how it answers; with a file or options, keep these settings in it from now on.

    Args:
        run: a run folder or a bundle file.
        settings: a YAML file with fields of the settings; options typed here count above it.
        fields: of the settings.
    """
    from nuriwake.api import describe, keep_settings

    changes = settings_changes(settings, fields)
    bundle = keep_settings(run, changes) if changes else describe(run)
    print(yaml.safe_dump(_about(bundle), sort_keys=False, allow_unicode=True, width=120), end="")


def _about(bundle: Any) -> dict[str, Any]:
    from nuriwake.core.serial import to_plain

    plain = to_plain(bundle)
    return {
        "task": bundle.task,
        "model": plain["model"],
        "classes": list(bundle.space.names),
        "exclusive": bundle.space.exclusive,
        "scores": plain["metrics"],
        "licence": bundle.licence or "not stated",
        "preprocessing": plain["preprocessing"],
        "settings": plain["settings"],
        "notes": plain["notes"],
    }
