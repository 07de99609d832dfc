"""Distillation of the demo's model into a smaller one."""
