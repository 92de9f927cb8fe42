"""Run what is missing, and make the page: python -m pipeline.evidence."""

import argparse
import dataclasses
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.console import say_error, show_traceback, tell
from pipeline.errors import EXIT_BUG, EXIT_DONE, EXIT_USER, ConfigError, Interrupted, UserError
from pipeline.evaluation.extractors import photographs
from pipeline.evidence import claims, rows
from pipeline.evidence.claims import Claim, Plan
from pipeline.evidence.measured import DRAWN, Bench
from pipeline.evidence.page import page
from pipeline.evidence.rows import Row
from pipeline.evidence.verdicts import pair_of

PACKAGES = ("torch", "diffusers", "peft")


def main() -> int:
    """Run what is missing, and write rows and page; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=Path, default=claims.FILE, help="what is claimed")
    parser.add_argument("--to", type=Path, default=Path("docs"), help="where evidence.jsonl and evidence.md go")
    parser.add_argument("--work", type=Path, default=Path("outputs/evidence"), help="where runs lie while they last")
    parser.add_argument(
        "--share", default="1/1", help="which part of the runs, as in 1/2: for several processes at once"
    )
    parser.add_argument("--only", nargs="+", metavar="CLAIM", help="run these claims alone; not given: all")
    parser.add_argument("--page_only", action="store_true", help="make the page of the rows there are")
    arguments = parser.parse_args()
    try:
        plan = claims.read(arguments.claims)
        failed = list[str]()
        if not arguments.page_only:
            wanted, part = chosen(plan, arguments.only), part_of(arguments.share)
            failed = run(wanted, arguments.to / "evidence.jsonl", arguments.work, part)
        found = rows.read(arguments.to / "evidence.jsonl")
    except UserError as error:
        say_error(f"Error: {error}")
        return EXIT_USER
    except Interrupted as stopped:
        say_error(f"{stopped}. The same command goes on.")
        return stopped.exit_code
    atomic.write_text(arguments.to / "evidence.md", page(plan, found))
    tell(f"Page  {arguments.to / 'evidence.md'}")
    if failed:
        say_error("These runs failed:\n" + "\n".join(failed))
    return EXIT_BUG if failed else EXIT_DONE


def chosen(plan: Plan, names: list[str] | None) -> Plan:
    """The plan with these claims alone. Raises ConfigError for a name that none has."""
    known = [claim.name for claim in plan.claims]
    if strange := [name for name in names or () if name not in known]:
        raise ConfigError(f"--only {', '.join(strange)}: there is {', '.join(known)}.")
    return dataclasses.replace(plan, claims=tuple(claim for claim in plan.claims if claim.name in (names or known)))


def part_of(share: str) -> tuple[int, int]:
    """'2/3' as (1, 3): the part, counted from 0, and how many there are. Raises UserError for anything else."""
    first, _, last = share.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(f"--share {share} is no part of a whole: write it as in 1/2.")
    return int(first) - 1, int(last)


def run(plan: Plan, path: Path, work: Path, part: tuple[int, int]) -> list[str]:
    """Add every row that is missing; returns what failed. Each run is made once, whichever claims it belongs to.

    A pair that other code made stays as it is; half a pair of other code is made anew, both sides of it.
    """
    if not photographs.is_installed():
        raise ConfigError(photographs.MISSING)
    bench, code, common = Bench(work, plan.common), rows.code_fingerprint(), rows.hash_of(plan.common)
    failed = list[str]()
    origin: dict[str, Any] = {"common": common, "code": code, "versions": {name: version(name) for name in PACKAGES}}
    runs = list(runs_of(plan).items())
    for number, ((_, seed), trials) in list(enumerate(runs))[part[0] :: part[1]]:
        settings, found = trials[0][0].settings(trials[0][1]), rows.read(path)
        needed = {measure for claim, _ in trials for measure in claim.measures}
        have = [row for row in rows.same_run(found, settings, seed, common, code) if needed <= row.measured.keys()]
        there = {(row.claim, row.side) for row in have}
        missing = [
            (claim, side)
            for claim, side in trials
            if (claim.name, side) not in there and pair_of(claim, seed, common, found) is None
        ]
        if not missing:
            continue
        tell(f"Run {number + 1}/{len(runs)}, seed {seed}: {settings or 'the common options'}")
        began = time.process_time()
        try:
            measured = have[0].measured if have else bench.measured(settings, seed, drawn=bool(needed & DRAWN))
        except Exception:  # a fault in one kind of run leaves the others
            show_traceback()
            failed.append(f"seed {seed}: {settings}")
            continue
        seconds = time.process_time() - began
        for place, (claim, side) in enumerate(missing):
            row = Row(
                claim=claim.name, side=side, seed=seed, settings=settings, measured=measured,
                seconds=0.0 if place else seconds, **origin,
            )  # fmt: skip
            rows.append(path, row)
    return failed


def runs_of(plan: Plan) -> dict[tuple[str, int], list[tuple[Claim, str]]]:
    """Claims and sides of every run, by its options and its seed; all runs of one seed before those of the next."""
    found: dict[tuple[str, int], list[tuple[Claim, str]]] = {}
    for claim, side, seed in plan.trials():
        found.setdefault((rows.hash_of(claim.settings(side)), seed), []).append((claim, side))
    return found


if __name__ == "__main__":
    sys.exit(main())
