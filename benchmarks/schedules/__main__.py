"""Each schedule of conf/scheduler over a run, and a run that is extended from here.

    python -m benchmarks.schedules [--plot docs/images/schedules.png]

Price: a second; nothing is trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from align_train.config.components import build, without_runs_own
from align_train.config.schema import conf_dir
from align_train.optim.schedules import Anchor, Anchored, Schedule
from benchmarks.shared.children import REPOSITORY
from benchmarks.shared.command_line import parser_of

STEPS, LONGER = 600, 1200

CHANGES: dict[str, dict[str, Any]] = {"step_decay": {"every": 150, "warmup_steps": 50}}


def main() -> None:
    """Draws the picture."""
    parser = parser_of("schedules", __doc__)
    images = REPOSITORY / "docs" / "images"
    parser.add_argument("--plot", type=Path, default=images / "schedules.png")
    given = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for file in sorted((conf_dir() / "scheduler").glob("*.yaml")):
        schedule = _schedule(file)
        steps = range(STEPS)
        left.plot(steps, [schedule.factor(step, STEPS) for step in steps], label=file.stem)

        # As `commands/curve.py` does it after the last step.
        present = schedule.factor(STEPS - 1, STEPS)
        anchored = Anchored(schedule, Anchor(STEPS, present))
        factors = [schedule.factor(step, STEPS) for step in steps]
        factors += [anchored.factor(step, LONGER) for step in range(STEPS, LONGER)]
        right.plot(range(LONGER), factors, label=file.stem)

    left.set_title(f"max_steps={STEPS}")
    right.set_title(f"then max_steps={LONGER} scheduler.from=here")
    for axes in (left, right):
        axes.set_xlabel("finished steps")
        axes.set_ylabel("share of the learning rate")
    left.legend(fontsize="small")
    figure.savefig(given.plot, dpi=110)
    print(given.plot)


def _schedule(file: Path) -> Schedule:
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    node |= {"batch_size": 128} | CHANGES.get(file.stem, {})
    schedule: Schedule = build(without_runs_own(node, "scheduler"))
    return schedule


if __name__ == "__main__":
    main()
