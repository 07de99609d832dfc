"""Tables of URLs and texts: how they are found, read and queried."""
