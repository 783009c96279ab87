"""The two statements of every change of stock: load a batch's rows, apply its writes."""
