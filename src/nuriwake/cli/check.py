"""`nuriwake check`."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING

from nuriwake.core.errors import RunError, UserError

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
    """Read a data set once and say, in order of harm, what is wrong with it; exit with 1 where that spoils a training, and with 2
    where the data cannot be read at all, or the report or the copy cannot be written.

    Args:
        data: a folder whose format is recognised, an annotation file (.json, .geojson, .xml), or a YAML file that describes the data.
        report: an HTML file to write: distributions, samples with their masks, each problem with pictures.
        fix: a new folder to write a corrected copy to, as far as nothing has to be guessed.
        format: of the data, where it is not to be recognised.
        workers: processes; by default one per processor, at most 16.
        json: print everything as one JSON object; where the data cannot be read, {"error": ...}.
    """
    try:
        _refuse_destinations(data, report, fix)
        result = _read(data, format, workers)
    except (UserError, OSError) as error:
        if json:
            print(json_format.dumps({"error": str(error)}, ensure_ascii=False))
        raise _users(error) from error
    if not json:
        _print(result)
    fixed: tuple[str, ...] = ()
    failure: UserError | None = None
    try:
        fixed = _write(result, report, fix)
    except (UserError, OSError) as error:
        failure = _users(error)
    if json:
        plain = {**result.plain(), "fixed": list(fixed)} | ({"error": str(failure)} if failure else {})
        print(json_format.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False))
    else:
        for line in fixed:
            print(f"fixed: {line}")
    if failure is not None:
        raise failure
    if not json and report is not None:
        print(f"report: {report}")
    if result.harmful:
        kinds = ", ".join(finding.kind for finding in result.harmful)
        count = len(result.harmful)
        raise RunError(f"{data}: {count} harmful {'finding' if count == 1 else 'findings'} ({kinds}).")


def _refuse_destinations(data: Path, report: Path | None, fix: Path | None) -> None:
    """Raises UserError where the report or the copy cannot be written: before everything is read, not after."""
    from nuriwake.data.destinations import refuse_unwritable_file, refuse_unwritable_folder
    from nuriwake.data.written import refuse_existing

    if report is not None:
        refuse_unwritable_file(report)
    if fix is not None:
        if data.is_dir() and fix.resolve().is_relative_to(data.resolve()):
            raise UserError(f"{fix}: a corrected copy lies outside of the data set; choose another folder.")
        refuse_existing(fix)
        refuse_unwritable_folder(fix)


def _read(data: Path, format: str | None, workers: int | None) -> "CheckResult":  # noqa: A002
    from nuriwake.api import check as check_data
    from nuriwake.engine.progress import Bar

    with Bar(shown=True) as bar:
        return check_data(
            data,
            format=format,
            workers=workers,
            tick=lambda done, total: bar.show(done / max(total, 1), f"{done:,} of {total:,} images", doing="check"),
        )


def _write(result: "CheckResult", report: Path | None, fix: Path | None) -> tuple[str, ...]:
    from nuriwake.api import report_check
    from nuriwake.data.check.fixing import write_fixed

    if report is not None:
        report_check(result, report)
    return write_fixed(result, fix) if fix is not None else ()


def _users(error: UserError | OSError) -> UserError:
    """Exit code 1 is for data that harm: whatever else goes wrong ends with that of a user's mistake."""
    if isinstance(error, UserError):
        return error
    where = f"{error.filename}: " if error.filename else ""
    return UserError(f"{where}{error.strerror or error}.")


def _print(result: "CheckResult") -> None:
    seen = result.survey
    splits = ", ".join(f"{split} {len(facts):,}" for split, facts in seen.splits.items())
    images = "image" if len(seen.facts) == 1 else "images"
    print(f"{seen.listing.root}: {seen.listing.format}, {len(seen.facts):,} {images} ({splits}).")
    for finding in result.findings:
        _print_finding(finding)
    if not result.findings:
        print("Nothing was found: the data set is clean.")


def _print_finding(finding: "Finding") -> None:
    print(f"\n{finding.severity.upper()}  {finding.what}  [{finding.kind}]")
    print(f"  why: {finding.why}")
    print(f"  do:  {finding.remedy}")
    for file in finding.files:
        print(f"    {file}")
    if finding.count > len(finding.files) == 10:
        print("    and others")
