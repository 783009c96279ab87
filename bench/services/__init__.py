"""What Holdfast is measured against, each a small service of its own."""
