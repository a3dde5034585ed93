"""How many servers autoscaling runs: a day of traffic over measured service times, by the chart's own rules."""
