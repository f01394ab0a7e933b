"""What benchmarks share: sites, tuning, statistics, tables, figures and their files."""
