"""Load tests of a captioning server: Locust for the load, plain asyncio for the requests, a report with plots."""
