"""The settings of every command: composed, typed, checked, and the objects that they describe.

The one room that knows Hydra and OmegaConf. Importing it imports neither torch nor Lightning.
"""
