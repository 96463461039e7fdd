"""One module per phase: what it reads, what it computes, what it writes."""
