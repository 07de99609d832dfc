"""From shards to batches: the way of the pairs, at every step of a run.

Read `order` (which pair comes when), `pairs` (bytes to pixels and a text), `pieces` (many pairs),
`loader` (a rank's batches) and `datamodule` (from settings to all of these). None of them keeps
state between steps.
"""
