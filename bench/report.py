"""From single runs to the table that is printed."""

from __future__ import annotations

from statistics import median

from bench.load import Case, Run

HEAD = (
    "| size | sessions | connection | server | accepted/s | end to end/s | CPU ms/message | memory MiB | end to end against |\n"
    "|--:|--:|---|---|--:|--:|--:|--:|---|\n"
)


def trusted(runs: list[Run]) -> tuple[list[Run], str]:
    """The runs to take the median of, and "~" where no quiet one was found."""
    good = [run for run in runs if not run.error]
    quiet = [run for run in good if not run.noisy]
    return (quiet, "") if quiet else (good, "~")


def against(case: Case, name: str, runs: list[Run]) -> str:
    """How many times as fast as each Postfix, for mailflow's row."""
    if not name.startswith("mailflow"):
        return ""
    own = [run.end_to_end_rate for run in trusted(of(runs, case, name))[0]]
    words = []
    for other in ("postfix", "postfix-tuned"):
        rates = [run.end_to_end_rate for run in trusted(of(runs, case, other))[0]]
        if own and rates:
            words.append(f"{median(own) / median(rates):.1f} times {other}")
    return ", ".join(words)


def of(runs: list[Run], case: Case, name: str) -> list[Run]:
    return [run for run in runs if run.case == case and run.server == name]


def row(case: Case, name: str, runs: list[Run]) -> str:
    chosen, doubt = trusted(of(runs, case, name))
    head = f"| {case.size // 1024} KB | {case.sessions} | {'reused' if case.reuse else 'new each'} | {name} |"
    if not chosen:
        return f"{head} failed: {of(runs, case, name)[-1].error} | | | | |\n"
    accept, end_to_end, cpu, memory = (
        median(getattr(run, key) for run in chosen)
        for key in ("accept_rate", "end_to_end_rate", "cpu_ms", "memory_mib")
    )
    figures = f" {doubt}{accept:,.0f} | {doubt}{end_to_end:,.0f} |"
    own = f" {cpu:.3f} | {memory:.0f} |" if name != "sink" else " | |"
    return f"{head}{figures}{own} {against(case, name, runs)} |\n"


def table(runs: list[Run]) -> str:
    """One row for each case and server, in the order in which they were measured."""
    seen = dict.fromkeys((run.case, run.server) for run in runs)
    return HEAD + "".join(row(case, name, runs) for case, name in seen)
