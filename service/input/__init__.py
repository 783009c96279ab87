"""From bytes to checked values (JSON, names, headers, CSV), or what is wrong with them."""
