"""What a server tells of each request besides its metrics: lines of a log, spans of a trace. Nothing needs Triton."""
