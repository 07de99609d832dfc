"""The time from a mistake of somebody's first day to the line that mends it."""
