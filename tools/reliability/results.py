"""What the trials came to: one line of JSON for each, and a table of all."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any


class Results:
    """Results in a file that is only ever added to."""

    def __init__(self, path: Path, seconds: float = float("inf")) -> None:
        self.path = path
        self._deadline = time.monotonic() + seconds
        self.trials: list[dict[str, Any]] = []
        if path.exists():
            self.trials = [json.loads(line) for line in path.read_text().splitlines()]

    def count(self, part: str, case: str = "", outcome: str = "") -> int:
        """How many trials of a case there are whose outcome begins so; of all cases if none is named."""
        return sum(
            trial["part"] == part and trial["case"] in (case or trial["case"],) and trial["outcome"].startswith(outcome)
            for trial in self.trials
        )

    def want(self, count: int, part: str, case: str = "", outcome: str = "") -> bool:
        """Whether there are fewer trials of a case than there should be, and time for another."""
        return time.monotonic() < self._deadline and self.count(part, case, outcome) < count

    def add(self, part: str, case: str, outcome: str, problem: str = "", **details: Any) -> None:
        """Note a trial.

        Args:
            part: of the campaign.
            case: command or format.
            outcome: what happened, in a few words: "killed, resumed".
            problem: how the promise was broken; empty if it was kept.
            details: whatever helps to repeat it.
        """
        trial = {"part": part, "case": case, "outcome": outcome, "problem": problem} | details
        self.trials.append(trial)
        with self.path.open("a") as file:
            file.write(json.dumps(trial) + "\n")
        if problem:
            print(f"BROKEN: {part}, {case}: {problem} {details}", flush=True)

    def broken(self) -> list[dict[str, Any]]:
        """The trials in which a promise was broken."""
        return [trial for trial in self.trials if trial["problem"]]

    def table(self) -> str:
        """All cases in Markdown: trials, outcomes, broken promises."""
        lines = ["| part | case | trials | what happened | promises broken |", "| --- | --- | --- | --- | --- |"]
        for key in dict.fromkeys((trial["part"], trial["case"]) for trial in self.trials):
            mine = [trial for trial in self.trials if (trial["part"], trial["case"]) == key]
            outcomes = Counter(trial["outcome"] for trial in mine)
            told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
            lines.append(f"| {key[0]} | {key[1]} | {len(mine)} | {told} | {sum(bool(t['problem']) for t in mine)} |")
        return "\n".join(lines)
