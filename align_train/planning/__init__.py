"""Says what a run will need before it begins, without hardware: pure functions.

`python -m align_train.plan` prints the answers; `commands/` has its story.
"""
