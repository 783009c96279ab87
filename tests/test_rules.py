"""The rules' own words: what a refusal tells, and what only a token or a limit decides."""
