"""What a usage costs: ``pipeline/price.py`` prices whole columns, these are its parts.

``scalar`` is the specification, one event at a time. ``lookup`` finds the price row of a quantity, ``terms`` adjusts
it, ``rates`` multiplies exactly. ``nearest`` says which row would price what has no price, and which nearly did.
"""
