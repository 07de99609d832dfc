"""Three loaders on the same shards: ours, open_clip's, and a plain one."""
