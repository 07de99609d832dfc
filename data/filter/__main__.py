from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from align_train.config.compose import command
from align_train.errors import UserError
from data.filter.job import DONE, Job
from data.filter.rules import check
from data.filter.settings import FilterConfig
from data.tables.find import find


def run(config: DictConfig) -> None:
    settings: FilterConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    check(settings.rules)
    for name, least in (
        ("memory_gb", 1 if settings.engine == "spark" else 0.5),
        ("threads", 1),
        ("examples", 0),
    ):
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise UserError(f"{name}={value}: expected at least {least}")
    tables = find(settings.source)
    job = Job(settings, tables)
    job.print_recipe()
    if (job.to / DONE).is_file():
        job.refuse_another(job.to / DONE)
        print((job.to / "report.md").read_text(encoding="utf-8").split("## ")[0].strip())
        print(f"{job.to}: is finished; remove it to filter anew")
        return
    if job.to.exists():
        raise UserError(
            f"to={settings.to} exists, and is no filter's output; remove it or choose another folder"
        )
    with job.folder():
        job.filter()


if __name__ == "__main__":
    command(run, config_name="filter")
