"""Where hours go: each destination writes named objects and says what it wrote."""
