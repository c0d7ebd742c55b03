"""What is seen from outside: which metrics exist, the dashboards over them, and the words of PromQL."""
