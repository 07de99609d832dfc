"""More noisy data against less clean data: the table and the plot."""
