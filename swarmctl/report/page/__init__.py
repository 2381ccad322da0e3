"""The page of a report: HTML without scripts from elsewhere, with charts as SVG."""
