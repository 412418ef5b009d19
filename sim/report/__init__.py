"""What a run says: sums, critical path, memories over time, tables, charts and pages."""
