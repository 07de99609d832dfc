"""How near `align-train score` comes to the speed of its towers alone."""
