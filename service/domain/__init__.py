"""The rules: the effect of each command on stock and reservations. Pure: values in, values out."""
