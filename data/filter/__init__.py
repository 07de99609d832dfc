"""The paper's filters on a crawl's table: `python -m data.filter`."""
