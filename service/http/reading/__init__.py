"""How an operation reads its request: query parameters, headers, cursors of lists, and bodies."""
