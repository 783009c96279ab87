"""The small services that Holdfast is compared with."""
