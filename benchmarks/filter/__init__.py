"""The filter with every rule, against merely scanning the columns that it reads."""
