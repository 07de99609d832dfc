"""A report as one HTML file: its template, style and script, and uPlot, which draws the curves.

`uplot/` holds two files of the npm package uplot 1.6.32 (MIT, its LICENSE is beside them), as they
are in its `dist/`: https://www.npmjs.com/package/uplot. To renew them: `npm pack uplot`.
"""
