"""`nuriwake check`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING

from nuriwake.core.errors import RunError

if TYPE_CHECKING:
    from nuriwake.data.check import CheckResult, Finding


def check(
    data: Path,
    *,
    report: Path | None = None,
    fix: Path | None = None,
    format: str | None = None,  # noqa: A002 (what users type)
    workers: int | None = None,
    json: bool = False,
) -> None:
    """Read a data set once and say, in order of harm, what is wrong with it; exit with 1 where that spoils a training.

    Args:
        data: a folder whose format is recognised, an annotation file (.json), or a YAML file that describes the data.
        report: an HTML file to write: distributions, samples with their masks, each problem with pictures.
        fix: a new folder to write a corrected copy to, as far as nothing has to be guessed.
        format: of the data, where it is not to be recognised.
        workers: processes; by default one per processor, at most 16.
        json: print everything as one JSON object.
    """
    from nuriwake.api import check as check_data
    from nuriwake.engine.progress import Bar

    with Bar(shown=True) as bar:
        result = check_data(
            data,
            report=report,
            format=format,
            workers=workers,
            tick=lambda done, total: bar.show(done / max(total, 1), f"{done:,} of {total:,} images", doing="check"),
        )
    fixed = _fix(result, fix) if fix is not None else ()
    if json:
        print(
            json_format.dumps({**result.plain(), "fixed": list(fixed)}, ensure_ascii=False, indent=1, allow_nan=False)
        )
    else:
        _print(result, fixed)
        if report is not None:
            print(f"report: {report}")
    if result.harmful:
        kinds = ", ".join(finding.kind for finding in result.harmful)
        count = len(result.harmful)
        raise RunError(f"{data}: {count} harmful {'finding' if count == 1 else 'findings'} ({kinds}).")


def _fix(result: "CheckResult", folder: Path) -> tuple[str, ...]:
    from nuriwake.data.check.fixing import write_fixed

    return write_fixed(result, folder)


def _print(result: "CheckResult", fixed: tuple[str, ...]) -> None:
    seen = result.survey
    splits = ", ".join(f"{split} {len(facts):,}" for split, facts in seen.splits.items())
    images = "image" if len(seen.facts) == 1 else "images"
    print(f"{seen.listing.root}: {seen.listing.format}, {len(seen.facts):,} {images} ({splits}).")
    for finding in result.findings:
        _print_finding(finding)
    if not result.findings:
        print("Nothing was found: the data set is clean.")
    for line in fixed:
        print(f"fixed: {line}")


def _print_finding(finding: "Finding") -> None:
    print(f"\n{finding.severity.upper()}  {finding.what}  [{finding.kind}]")
    print(f"  why: {finding.why}")
    print(f"  do:  {finding.remedy}")
    for file in finding.files:
        print(f"    {file}")
    if finding.count > len(finding.files) == 10:
        print("    and others")
