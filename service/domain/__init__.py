"""The rules: what each command may do to stock and reservations. Pure: values in, values out."""
