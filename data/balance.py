"""`python -m data.balance source=… to=… threshold=…`: MetaCLIP's balance of concepts.

It counts how many pairs hold each entry (`data/balancing/entries.py`), and gives each pair a rate
(`data/balancing/rates.py`). The result is a manifest of the same tars: with rates, by which
training visits pairs, or with a selection.

Price: a text is read once, and twice if entries are made from the texts. In memory are the entries
and one shard. A million pairs with texts of 12 words take 80 MB of disk until the end. While
entries are made, their phrases take 30 MB or more.
"""

from __future__ import annotations

from pathlib import Path

from align_train.cluster.interruption import leave
from align_train.config.command import command
from align_train.errors import UserError
from align_train.shards.rates import MOST

from .balancing.entries import read_entries
from .balancing.settings import BalanceSettings
from .packing.beside import check_place
from .tables.extra import need_prepare
from .tables.paths import check_storage_options, paths_of

_LARGEST = 2**48  # a count that fits 64 bits after any sum
_MOST_MEMORY = 2.0**20  # GB


def run(settings: BalanceSettings) -> None:
    """Balances the source."""
    to = Path(settings.to).expanduser()
    _check(settings, to)
    need_prepare("balance")
    # Before the source is opened, which can take long: a wrong file ends the command at once.
    entries = None
    if settings.entries is not None:
        entries = read_entries(Path(settings.entries).expanduser(), lower=settings.lower)

    # Imported here, so that `--help` does not wait for them.
    from align_train.shards.resolve import refuse_absent

    shards = paths_of(settings.source, "source")
    refuse_absent(shards, key="source")
    leave("nothing is saved, and the same command begins anew")

    from .balancing.job import balance

    print(balance(settings, shards, entries, to), flush=True)


def _check(settings: BalanceSettings, to: Path) -> None:
    check_place(settings.to, to)
    check_storage_options(settings.storage_options)
    if settings.write not in ("rates", "selection"):
        raise UserError(f"write={settings.write}: expected rates or selection")

    # A selection can give a pair once at most, rates can give it several times.
    highest_rate = MOST if settings.write == "rates" else 1
    numbers = {
        "threshold": (settings.threshold, 1, _LARGEST),
        "least_count": (settings.least_count, 1, _LARGEST),
        "most": (settings.most, 1, highest_rate),
        "unmatched": (settings.unmatched, 0, highest_rate),
        "memory_gb": (settings.memory_gb, 0.5, _MOST_MEMORY),
    }
    for name, (value, least, highest) in numbers.items():
        # `not` refuses NaN too.
        if not least <= value <= highest:
            with_rates = "; write=rates takes more" if highest < value <= MOST else ""
            raise UserError(
                f"{name}={value}: expected at least {least} and at most {highest:g}{with_rates}"
            )


if __name__ == "__main__":
    command(run, config_name="balance", schema=BalanceSettings)
