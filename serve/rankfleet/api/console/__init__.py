"""The console: a page in which people try requests, and see why they were answered as they were."""
