"""The two statements that change stock: one loads a batch's rows, one applies its writes."""
