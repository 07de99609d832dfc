"""The order at full size: reads, cache, shuffle and the price of asking it."""
