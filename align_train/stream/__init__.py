"""From shards to batches: what happens at every step of a run.

Read in this order: `order` (which pair comes where), `pairs` (bytes to pixels and a text), `chunks`
(many pairs), `loader` (a rank's batches), `datamodule` (from settings to all of these). None of
them keeps state between steps.
"""
