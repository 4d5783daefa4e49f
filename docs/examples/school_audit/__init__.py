"""A month's audit of a school network: one job and one PDF document per student."""
