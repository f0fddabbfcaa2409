"""How a layer or a network will learn, level by level, and how it did."""
