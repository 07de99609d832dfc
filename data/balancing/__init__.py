"""The parts of `data/balance.py`: entries, their counts, and the rates that follow from these."""
